"""The pictures of a dataset that is written: their names in it, and the way they get there.

A picture keeps its name and the folders that it lies in below the folder that all pictures of its split share. What a
format or a file system may not be able to hold is replaced: control characters, backslashes, bytes that are no UTF-8,
dots and spaces at the beginning of a name, spaces at its end. Where files belong together by name, two that differ only
in their ending get names of their own. Every picture that is called otherwise than before is counted.

A slice of a volume becomes a picture, PNG where it has 8 bits and TIFF of 32 where not, whose pixels are read as those
of the slice are: `case-axial-007.tif`.
"""

import os
import re
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from densenet_suite.archives.members import member_of, open_binary
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.image_opening import ImageRecord, open_image
from densenet_suite.images import IMAGE_SUFFIXES
from densenet_suite.rasters import open_raster, read_raster
from densenet_suite.volumes.scenes import is_volume
from densenet_suite.volumes.voxels import VOLUME_ENDINGS, ending_of, file_of, parse_slice

# what some format, or the text of all, cannot hold: control characters, ends of lines, halves of characters
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_SUFFIX_OF = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


def picture_names(paths: Sequence[Path], findings: Findings, *, by_stem: bool = False) -> list[str]:
    """Return a name for each picture of a split, relative to the folder that takes them, no two alike.

    Args:
        paths: of the pictures.
        findings: takes those that are called otherwise than before.
        by_stem: files belong together by their names without ending, as labels do with pictures in VOC and YOLO
            format. Then no two names differ in nothing else, and every picture has an ending by which it is known.

    Raises:
        DataError: a picture has no ending that says what it is, and is of no common format; or a slice has bands that
            no picture holds.
    """
    names: list[str] = []
    taken: set[str] = set()
    for volume in dict.fromkeys(file_of(path) for path in paths if is_volume(path)):
        findings.warning(
            "volume-in-pictures", f"the slices of {volume.name} are pictures, without size and place of the voxels"
        )
    for path, old in zip(paths, _names_below(paths), strict=True):
        wanted = PurePosixPath(*(_safe(part) for part in old.split("/")))
        if by_stem and wanted.suffix.lower() not in IMAGE_SUFFIXES:
            wanted = wanted.with_name(wanted.name + _ending(path))
        name = _free(wanted, taken, by_stem)
        taken.add(_key(name, by_stem))
        if str(name) != old:
            findings.warning("picture-renamed", f"picture {old!r} is called {str(name)!r}")
        names.append(str(name))
    return names


def place_pictures(paths: Sequence[Path], names: Sequence[str], folder: Path, *, copy: bool = False) -> None:
    """Put pictures below a folder, as hard links where the file system can, so that they take no room, or as copies.

    Args:
        paths: of the pictures.
        names: of each in the folder.
        folder: that takes them.
        copy: make copies, so that no change of the one file is one of the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {folder}
    for path, name in zip(paths, names, strict=True):
        target = folder / name
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        if not copy and not is_volume(path):
            try:
                os.link(os.path.realpath(path), target)
                continue
            except OSError:  # another disk, or a file system without links
                pass
        if is_volume(path):
            target.write_bytes(_slice_picture(path))
            continue
        with open_binary(path) as source, target.open("wb") as written:
            shutil.copyfileobj(source, written)


def picture_bytes(path: Path) -> bytes:
    """Return a picture as `place_pictures` puts it into a file.

    Raises:
        DataError: a slice cannot be a picture.
    """
    if is_volume(path):
        return _slice_picture(path)
    with open_binary(path) as file:
        return file.read()


def _names_below(paths: Sequence[Path]) -> list[str]:
    """Return the names of files below the folder that all of them share, or in the archives that they lie in."""
    members = [member_of(path) for path in paths]
    inside = [member.name for member in members if member is not None]
    if len(inside) == len(paths):
        return inside
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    named = (path.with_name(_slice_name(path)) if is_volume(path) else path for path in paths)
    return [path.relative_to(shared).as_posix() for path in named]


def _slice_name(path: Path) -> str:
    """Return the name of the picture that a slice, or a volume of one slice, becomes."""
    record = open_raster(path).record
    suffix = ".png" if _fits_png(record) else ".tif"
    file, plane, number = parse_slice(path) or (path, "", 0)
    stem = file.name[: len(file.name) - len(ending_of(file))] if ending_of(file) in VOLUME_ENDINGS else file.name
    return f"{stem}-{plane}-{number:03d}{suffix}" if plane else f"{stem}{suffix}"


def _fits_png(record: ImageRecord) -> bool:
    """Say which kind of picture holds a slice.

    Raises:
        DataError: none does.
    """
    if record.dtype == "uint8" and record.bands in (1, 3):
        return True
    if record.bands == 1:
        return False
    raise DataError(
        f"volume has {record.bands} bands of {record.dtype}, which no picture holds",
        where=str(file_of(record.path)),
        hint="train on the volumes as they are, or write the bands as volumes of their own",
    )


def _slice_picture(path: Path) -> bytes:
    values, missing, record = read_raster(path)
    content = BytesIO()
    if not _fits_png(record):
        marked = values[:, :, 0] if missing is None else np.where(missing, np.float32(np.nan), values[:, :, 0])
        Image.fromarray(marked.astype(np.float32)).save(content, "TIFF", compression="tiff_adobe_deflate")
        return content.getvalue()
    if missing is not None:
        raise DataError(
            f"{int(missing.sum())} pixels hold no data, which a picture of 8 bits cannot say",
            where=str(path),
            hint="train on the volumes as they are",
        )
    Image.fromarray(values[:, :, 0] if record.bands == 1 else values).save(content, "PNG")
    return content.getvalue()


def _safe(part: str) -> str:
    part = UNSAFE.sub("_", part.replace("\\", "_"))
    stripped = part.strip()
    part = "_" * (len(part) - len(part.lstrip())) + stripped + "_" * (len(part) - len(part.rstrip()))
    return "_" + part[1:] if part.startswith(".") else part


def _ending(path: Path) -> str:
    with open_image(path) as image:
        kind = image.format or ""
    if kind not in _SUFFIX_OF:
        raise DataError(
            f"the picture's name does not end in one of {', '.join(IMAGE_SUFFIXES)}, by which this format knows "
            f"pictures, and it is a {kind}",
            where=str(path),
            hint="save it as PNG",
        )
    return _SUFFIX_OF[kind]


def _free(wanted: PurePosixPath, taken: set[str], by_stem: bool) -> PurePosixPath:
    """Return the name, or else the nearest one that is free."""
    name, number = wanted, 1
    while _key(name, by_stem) in taken:
        added = wanted.suffix.lstrip(".") if number == 1 else number
        name = wanted.with_name(f"{wanted.stem}_{added}{wanted.suffix}")
        number += 1
    return name


def _key(name: PurePosixPath, by_stem: bool) -> str:
    return str(name.with_suffix("") if by_stem else name)
