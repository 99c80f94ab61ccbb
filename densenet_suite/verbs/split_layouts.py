"""The files that say how a dataset is divided, by its layout: what the readers of each look for first."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from densenet_suite.detection import layout as boxes
from densenet_suite.detection.yolo_yaml import load_data_yaml
from densenet_suite.division.split_files import (
    NewFiles,
    box_tables,
    coco_files,
    lists,
    mask_table,
    relative,
    yolo_files,
)
from densenet_suite.errors import DataError
from densenet_suite.segmentation import layout as masks
from densenet_suite.segmentation.pairing import PairedFiles, path_key
from densenet_suite.verbs.dataset import OpenedDataset

SplitOf = Mapping[Path, str | None]
_CONVERT = "densenet-suite data convert writes a layout that can be divided"


def new_files(opened: OpenedDataset, splits: Sequence[str], split_of: SplitOf) -> NewFiles:
    """Return the files of a division.

    Args:
        opened: the dataset.
        splits: to write.
        split_of: of each image; None for those in no split.

    Raises:
        DataError: the layout has no files that could say so.
    """
    root = Path(opened.data.root)
    found = [opened.data.files(name) for name in splits if opened.data.has_files(name)]
    kinds = {type(files) for files in found}
    if len(kinds) > 1:
        raise DataError("splits are of different formats", where=str(root), hint=_CONVERT)
    first = found[0]
    if isinstance(first, boxes.CocoFile | masks.CocoFile):
        sources = [(files.annotations, files.images) for files in found]
        folder_of = _coco_folder(root, fixed=isinstance(first, masks.CocoFile))
        return coco_files(root, splits, sources, split_of, folder_of)
    if isinstance(first, PairedFiles):
        return _masks(root, splits, found, split_of)
    if isinstance(first, boxes.YoloFile):
        return yolo_files(first.data, load_data_yaml(first.data), splits, split_of)
    if isinstance(first, boxes.CsvFile):
        return box_tables(root, splits, [_column(files) for files in found], split_of)
    if isinstance(first, boxes.VocFolder):
        return _voc(root, splits, found, split_of)
    raise DataError(
        "GeoJSON labels are divided by folders, which are not made here",
        where=str(root),
        hint=f"{_CONVERT}, such as COCO",
    )


def _coco_folder(root: Path, *, fixed: bool) -> Callable[[str, Sequence[Path]], Path]:
    """Return what finds the folder that names are relative to: the first that there is, or the first that fits."""

    def folder_of(split: str, paths: Sequence[Path]) -> Path:
        folders = [root / "images" / split, root / split, root / "images", root]
        there = [folder for folder in folders if folder.is_dir()]
        if fixed:
            return there[0]
        return next((f for f in there if all(path.is_relative_to(f) for path in paths)), root)

    return folder_of


def _masks(root: Path, splits: Sequence[str], found: Sequence[PairedFiles], split_of: SplitOf) -> NewFiles:
    """Return a table of images and masks; lists where classes have masks of their own, which no table has room for."""
    if found[0].layers:
        if any((root / "images" / split).is_dir() for split in splits):
            raise DataError(
                "folders of masks for each class can be divided where images/ has no splits", where=str(root)
            )
        return lists(splits, split_of, lambda split: root / f"{split}.txt", lambda p: path_key(p, root / "images"))
    pairs = [(pair.image, pair.masks[0]) for files in found for pair in files.pairs]
    pairs = list(dict.fromkeys(pairs))
    files = NewFiles()
    tables = {each.where for each in found if each.where.suffix.lower() == ".csv"}
    if any(table.stem in splits for table in tables):
        for split in splits:
            mine = [pair for pair in pairs if split_of[pair[0]] == split]
            mask_table(root / f"{split}.csv", mine, split_of, files)
    else:
        mask_table(next(iter(tables), root / "splits.csv"), pairs, split_of, files)
    return files


def _column(files: boxes.CsvFile) -> tuple[Path, Path, int]:
    with files.table.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file))
    return files.table, files.images, boxes.column_numbers(header)["image"]


def _voc(root: Path, splits: Sequence[str], found: Sequence[Any], split_of: SplitOf) -> NewFiles:
    first = found[0]
    if any(files.annotations != first.annotations for files in found) or first.annotations.parent != root:
        raise DataError(
            "Pascal VOC is divided by lists where all XML files lie in Annotations/", where=str(root), hint=_CONVERT
        )

    def key(path: Path) -> str:
        name = Path(relative(path, first.images)).with_suffix("").as_posix()
        if not (first.annotations / f"{name}.xml").is_file():
            raise DataError(f"the XML file of {path.name} is not called {name}.xml", where=str(root), hint=_CONVERT)
        return name

    return lists(splits, split_of, lambda split: root / "ImageSets" / "Main" / f"{split}.txt", key)
