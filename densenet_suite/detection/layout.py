"""Where the splits of a dataset lie and in which format, found by the names that folders usually have.

This module needs no torch.
"""

import csv
import json
import mmap
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from densenet_suite.archives.shards import ShardSplit, find_shards
from densenet_suite.detection.yolo_yaml import load_data_yaml
from densenet_suite.errors import DataError
from densenet_suite.geo.geojson_rasters import GeoJsonFiles, find_geojson

Format = Literal["coco", "voc", "yolo", "csv", "geojson", "shards"]
SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}

# the names that the columns of a table may have, in small letters
COLUMNS = {
    "image": ("image", "filename", "file_name", "file", "image_path", "path", "image_name"),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "class": ("class", "label", "class_name", "category", "category_name"),
}
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_VOC_PICTURES = ("JPEGImages", "images")
_VOC_ANNOTATIONS = ("Annotations", "annotations")


@dataclass(frozen=True)
class CocoFile:
    """A split in COCO format: its file, and the folder that its file names are relative to."""

    annotations: Path
    images: Path

    def __str__(self) -> str:
        return f"COCO, as there is {self.annotations}"


@dataclass(frozen=True)
class VocFolder:
    """A split in Pascal VOC format: a folder of XML files, one of pictures, and a list of names; None for all."""

    annotations: Path
    images: Path
    names: Path | None = None

    def __str__(self) -> str:
        listed = f", listed in {self.names}" if self.names else ""
        return f"Pascal VOC, as there are XML files in {self.annotations}{listed}"


@dataclass(frozen=True)
class YoloFile:
    """A split in YOLO format: the yaml that names classes and splits, and what it calls this one."""

    data: Path
    key: str

    def __str__(self) -> str:
        return f"YOLO, as {self.data} has names and {self.key}"


@dataclass(frozen=True)
class CsvFile:
    """A split in a table, and the folder that its file names are relative to."""

    table: Path
    images: Path

    def __str__(self) -> str:
        return f"CSV, as {self.table} has columns of boxes"


SplitFiles = CocoFile | VocFolder | YoloFile | CsvFile | GeoJsonFiles | ShardSplit


def find_split(root: Path, split: str, format: Format | None = None) -> SplitFiles | None:
    """Find a split below a dataset's folder.

    Looked for, in this order (`val` may also be called valid or validation):

    1. COCO: annotations/instances_<split>.json, perhaps with a year behind the split, beside <split>/ or
       images/<split>/; or <split>/_annotations.coco.json;
    2. YOLO: a yaml file with names and <split>;
    3. Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/<split>.txt; or XML files in <split>/ beside the
       pictures, in <split>/Annotations/ or in Annotations/<split>/; without any split, all of them to train on;
    4. CSV: <split>.csv, <split>_labels.csv, <split>/_annotations.csv, or a table with a column split;
    5. GeoJSON polygons: images/<split>/ with labels/<split>/*.geojson or <split>.geojson; see `find_geojson`.
    6. sharded tars: shards/<split>-000000.tar and so on, or the same without a folder.

    Args:
        root: the folder.
        split: train, val or test.
        format: the format, where it is not to be guessed.

    Raises:
        DataError: several files could be meant, or the images are not where they usually are.
    """
    for finder in _FINDERS.values() if format is None else (_FINDERS[format],):
        for alias in SPLIT_NAMES[split]:
            found = finder(root, split, alias)
            if found is not None:
                return found
    return None


def name_split(
    root: Path, split: str, annotations: str, images: str | None, format: Format | None = None
) -> SplitFiles:
    """Return a split whose places a config names, relative to the dataset's folder.

    Args:
        root: the folder.
        split: its name.
        annotations: a COCO file, a folder of XML files or a list of their names, a YOLO dataset's yaml, a table, or
            a pattern of tars (shards/train-*.tar).
        images: the folder of the pictures; None to look for it. YOLO's yaml says itself where they are.
        format: the format, where the ending does not say it.

    Raises:
        DataError: the images are not where they usually are, or the yaml does not name the split.
    """
    path = root / annotations
    format = format or _kind_of(path)
    if format == "yolo":
        key = next((alias for alias in SPLIT_NAMES[split] if load_data_yaml(path).get(alias)), None)
        if key is None:
            raise DataError(f"the yaml names no {split} split", where=str(path), hint=f"{split}: images/{split}")
        return YoloFile(path, key)
    if format == "voc":
        folder = path if path.is_dir() else _first_folder(root, _VOC_ANNOTATIONS) or path.parent
        beside = _first_folder(folder.parent, _VOC_PICTURES) or folder
        return VocFolder(folder, root / images if images else beside, None if path.is_dir() else path)
    if format == "shards":
        return ShardSplit.of_archives(path.parent, sorted(path.parent.glob(path.name)))
    if format == "geojson":
        return GeoJsonFiles(path, root / (images or "images"))
    if format == "csv":
        return CsvFile(path, root / images if images is not None else _find_pictures(root, path, _first_row(path)))
    return CocoFile(path, root / images if images is not None else find_images(root, path))


def find_images(root: Path, annotations: Path) -> Path:
    """Find the folder that a COCO file's images lie in, by looking for the first of them.

    Raises:
        DataError: it is in none of the usual places.
    """
    return _find_pictures(root, annotations, _first_file_name(annotations))


def _first_file_name(annotations: Path) -> str | None:
    """Return the first file name in a COCO file, which is not parsed for it, as it may be of half a gigabyte."""
    try:
        with annotations.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = _FILE_NAME.search(content)
            return str(json.loads(found[1])) if found else None
    except (OSError, ValueError):
        return None  # reading the file properly will say what is wrong with it


def column_numbers(header: Iterable[str]) -> dict[str, int]:
    """Return where the columns of `COLUMNS`, and those called split and crowd, are in a table's first line."""
    names = [name.strip().lower() for name in header]
    wanted = {**COLUMNS, "split": ("split",), "crowd": ("crowd",)}
    found = {column: [names.index(a) for a in aliases if a in names] for column, aliases in wanted.items()}
    return {column: numbers[0] for column, numbers in found.items() if numbers}


def _kind_of(path: Path) -> Format:
    if path.suffix.lower() == ".geojson" or any(path.glob("*.geojson")):
        return "geojson"
    if path.is_dir() or path.suffix.lower() == ".txt":
        return "voc"
    kinds: dict[str, Format] = {".yaml": "yolo", ".yml": "yolo", ".csv": "csv", ".tar": "shards"}
    return kinds.get(path.suffix.lower(), "coco")


def _find_coco(root: Path, split: str, alias: str) -> CocoFile | None:
    candidates = (
        root / "annotations" / f"instances_{alias}.json",
        root / alias / "_annotations.coco.json",
        root / "annotations" / f"{alias}.json",
        root / f"{alias}.json",
    )
    exact = [path for path in candidates if path.is_file()][:1]
    found = exact or sorted((root / "annotations").glob(f"instances_{alias}20[0-9][0-9].json"))
    if len(found) > 1:
        raise _ambiguous(root, split, found)
    return CocoFile(found[0], find_images(root, found[0])) if found else None


def _find_yolo(root: Path, split: str, alias: str) -> YoloFile | None:
    usual = [root / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (root / name).is_file()]
    found = usual[:1] or [path for path in sorted(root.glob("*.y*ml")) if _names_splits(path)]
    if len(found) > 1:
        raise _ambiguous(root, split, found)
    return YoloFile(found[0], alias) if found and load_data_yaml(found[0]).get(alias) else None


def _names_splits(path: Path) -> bool:
    try:
        content = load_data_yaml(path)
    except DataError:
        return False  # a yaml of another purpose
    return "names" in content and any(content.get(alias) for names in SPLIT_NAMES.values() for alias in names)


def _find_voc(root: Path, split: str, alias: str) -> VocFolder | None:
    sets = root / "ImageSets" / "Main"
    annotations = next((root / name for name in _VOC_ANNOTATIONS if _has_xml(root / name, sets.is_dir())), None)
    if annotations is not None and sets.is_dir():
        names = sets / f"{alias}.txt"
        pictures = _first_folder(root, _VOC_PICTURES) or annotations
        return VocFolder(annotations, pictures, names) if names.is_file() else None
    for folder in (root / alias, *(root / alias / name for name in _VOC_ANNOTATIONS)):
        if _has_xml(folder):
            return VocFolder(folder, _first_folder(root / alias, _VOC_PICTURES) or folder)
    for folder in (root / name / alias for name in _VOC_ANNOTATIONS):
        if _has_xml(folder):
            return VocFolder(folder, _first_folder(root, [f"{name}/{alias}" for name in _VOC_PICTURES]) or folder)
    whole = annotations or (root if _has_xml(root) else None)
    if whole is None or split != "train":
        return None
    return VocFolder(whole, _first_folder(root, _VOC_PICTURES) or whole)


def _find_csv(root: Path, split: str, alias: str) -> CsvFile | None:
    candidates = (
        root / f"{alias}.csv",
        root / "annotations" / f"{alias}.csv",
        root / f"{alias}_labels.csv",
        root / alias / "_annotations.csv",
    )
    named = [path for path in candidates if path.is_file() and _holds_boxes(path)][:1]
    found = named or [path for path in sorted(root.glob("*.csv")) if _holds_boxes(path, SPLIT_NAMES[split])]
    if len(found) > 1:
        raise _ambiguous(root, split, found)
    return CsvFile(found[0], _find_pictures(root, found[0], _first_row(found[0]))) if found else None


def _find_shards(root: Path, split: str, alias: str) -> ShardSplit | None:
    found = find_shards(root, (alias,))
    first = next(found.samples(), None) if found is not None else None
    return found if first is not None and "json" in first.files else None  # others hold masks


_FINDERS: dict[Format, Callable[[Path, str, str], SplitFiles | None]] = {
    "coco": _find_coco,
    "yolo": _find_yolo,
    "voc": _find_voc,
    "csv": _find_csv,
    "geojson": find_geojson,
    "shards": _find_shards,
}


def _holds_boxes(table: Path, splits: Iterable[str] | None = None) -> bool:
    """Say whether a table has columns of boxes and, if splits are asked for, a row of one of them."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            columns = column_numbers(next(rows, []))
            if splits is None or not columns.keys() >= {*COLUMNS, "split"}:
                return splits is None and columns.keys() >= COLUMNS.keys()
            number = columns["split"]
            return any(len(row) > number and row[number].strip() in splits for row in rows)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _first_row(table: Path) -> str | None:
    """Return the image that a table names first."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            number = column_numbers(next(rows, [])).get("image")
            row = next(rows, [])
            return row[number].strip() if number is not None and number < len(row) else None
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _find_pictures(root: Path, annotations: Path, first: str | None) -> Path:
    if not first:
        return root / "images"
    stem = annotations.stem.removeprefix("instances_").removeprefix("_annotations").removesuffix("_labels")
    folders = list(dict.fromkeys([root / "images" / stem, root / stem, root / "images", annotations.parent, root]))
    for folder in folders:
        try:
            if (folder / first).is_file():
                return folder
        except (OSError, ValueError):  # such as a name that is too long
            continue
    raise DataError(
        f"the first image, {first}, is in none of {', '.join(str(folder) for folder in folders)}",
        where=str(annotations),
        hint="say where the images are: data.train.images=... (or val, test)",
    )


def _ambiguous(root: Path, split: str, found: Iterable[Path]) -> DataError:
    return DataError(
        f"several files could be the {split} split: {', '.join(path.name for path in found)}",
        where=str(root),
        hint=f"name one: data.{split}.annotations=...",
    )


def _has_xml(folder: Path, below: bool = False) -> bool:
    """Say whether there are XML files in a folder, or also below it."""
    return folder.is_dir() and next(folder.glob("**/*.xml" if below else "*.xml"), None) is not None


def _first_folder(root: Path, names: Iterable[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)
