"""Where the splits of a dataset lie, found by the names that folders usually have. This module needs no torch."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from densenet_suite.errors import DataError

_ALIASES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class SplitPaths:
    """The annotation file of a split, and the folder that its file names are relative to."""

    annotations: Path
    images: Path


def find_split(root: Path, split: str) -> SplitPaths | None:
    """Find a split below a dataset's folder.

    Known are COCO's own layout (annotations/instances_train2017.json beside train2017/ or images/train2017/) and one
    folder per split with _annotations.coco.json inside.

    Raises:
        DataError: several files could be meant, or the images are not where they usually are.
    """
    for alias in _ALIASES[split]:
        for found in (_exact(root, alias), _dated(root, alias)):
            if len(found) > 1:
                raise DataError(
                    f"several files could be the {split} split: {', '.join(path.name for path in found)}",
                    where=str(root),
                    hint=f"name one: data.{split}.annotations=...",
                )
            if found:
                return SplitPaths(found[0], find_images(root, found[0]))
    return None


def find_images(root: Path, annotations: Path) -> Path:
    """Find the folder that an annotation file's images lie in, by looking for the first of them.

    Raises:
        DataError: it is in none of the usual places.
    """
    try:
        entries = json.loads(annotations.read_text(encoding="utf-8-sig"))["images"]
        first = next(str(image["file_name"]) for image in entries)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return root / "images"  # reading the file properly will say what is wrong with it
    stem = annotations.stem.removeprefix("instances_").removeprefix("_annotations")
    folders = list(_unique([root / "images" / stem, root / stem, root / "images", annotations.parent, root]))
    for folder in folders:
        try:
            if (folder / first).is_file():
                return folder
        except OSError:  # such as a name that is too long
            continue
    raise DataError(
        f"the first image, {first}, is in none of {', '.join(str(folder) for folder in folders)}",
        where=str(annotations),
        hint="say where the images are: data.train.images=... (or val, test)",
    )


def _exact(root: Path, alias: str) -> list[Path]:
    candidates = (
        root / "annotations" / f"instances_{alias}.json",
        root / alias / "_annotations.coco.json",
        root / "annotations" / f"{alias}.json",
        root / f"{alias}.json",
    )
    return [path for path in candidates if path.is_file()][:1]


def _dated(root: Path, alias: str) -> list[Path]:
    return sorted((root / "annotations").glob(f"instances_{alias}20[0-9][0-9].json"))


def _unique(paths: Iterable[Path]) -> Iterable[Path]:
    return dict.fromkeys(paths)
