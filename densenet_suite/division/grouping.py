"""Images that must not be divided among splits: by name, patient or folder, and files that are the same."""

import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.volumes.dicom import dicom_files, is_dicom, patient_of
from densenet_suite.volumes.scenes import require, without_channel
from densenet_suite.volumes.voxels import ending_of

_BIDS = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[_/])")
_PIECE = 2**20
_SHOWN = 5


def named_groups(paths: Sequence[Path], root: Path, group: str) -> list[str]:
    """Return the group of each image.

    Args:
        paths: of the images.
        root: folder of the dataset.
        group: a regular expression with one group, searched in the file name; or a CSV file with the columns image and
            group, or a JSON file {image: group}, by file name or path below the root.

    Raises:
        ConfigError: it is none of these.
        DataError: images have no group, or the file cannot be read.
    """
    if group.lower().endswith((".csv", ".json")):
        given = _read_map(Path(group))
        found = [given.get(_below(path, root), given.get(path.name)) for path in paths]
    else:
        try:
            pattern = re.compile(group)
        except re.error as error:
            raise ConfigError(f"group {group!r} is no regular expression: {error}") from None
        if pattern.groups != 1:
            raise ConfigError(f"group {group!r} has {pattern.groups} groups, one is needed", hint=r"such as (case\d+)_")
        matches = [pattern.search(path.name) for path in paths]
        found = [match and match.group(1) for match in matches]
    lost = [path.name for path, name in zip(paths, found, strict=True) if name is None]
    if lost:
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise DataError(f"{len(lost)} images have no group: {', '.join(lost[:_SHOWN])}{more}", where=group)
    return [str(name) for name in found]


def patients(paths: Sequence[Path], root: Path) -> list[str]:
    """Return the patient of each image: the digest of its DICOM number, sub-... of BIDS, or else the file's own name.

    Raises:
        DataError: a DICOM file is damaged.
        MissingExtraError: pydicom is not installed.
    """
    return [_patient(path, root) for path in paths]


def scenes(paths: Sequence[Path], root: Path) -> list[str]:
    """Return the name of the folder that each image lies in."""
    return [path.parent.name if path.parent != root else "" for path in paths]


def duplicates(paths: Sequence[Path]) -> list[list[int]]:
    """Return the images that are the same to the last byte, by number; only files of the same size are read."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        by_size[sum(file.stat().st_size for file in _files(path))].append(i)
    by_content: dict[bytes, list[int]] = defaultdict(list)
    for same in by_size.values():
        for i in same if len(same) > 1 else ():
            by_content[_digest(paths[i])].append(i)
    return [same for same in by_content.values() if len(same) > 1]


def _read_map(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            content = json.loads(text)
            if not isinstance(content, dict):
                raise DataError("groups are no object {image: group}", where=str(file))
            return {str(image): str(group) for image, group in content.items()}
        rows = list(csv.DictReader(text.splitlines()))
        return {row["image"].strip(): row["group"].strip() for row in rows}
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"groups cannot be read: {error}", where=str(file)) from None
    except (KeyError, AttributeError):
        raise DataError("groups are no table with the columns image and group", where=str(file)) from None


def _patient(path: Path, root: Path) -> str:
    files = dicom_files(path) if path.is_dir() else [path]
    if is_dicom(files[0]):
        require("pydicom", files[0])
        number = patient_of(files[0])
        if number is not None:
            return number
    found = _BIDS.search(_below(path, root))
    name = path.name if path.is_dir() else path.name[: len(path.name) - len(ending_of(path))]
    return found.group(1) if found else without_channel(name)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _files(path: Path) -> list[Path]:
    return dicom_files(path) if path.is_dir() else [path]


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in _files(path):
        with part.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.digest()
