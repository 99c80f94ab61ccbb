"""Boxes in tables: `<split>.csv` and `images/<split>/`; see `csv_table` for the reader.

Corners are written with all their digits, so that boxes are read again to the last bit. A picture without objects has a
row without corners. The column crowd is there only where there are crowd regions.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from densenet_suite.detection.coordinates import plain
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.format_limits import (
    note_occurring_classes,
    note_plain_boxes,
    note_stripped_names,
    shared_classes,
)
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_names, place_pictures


def write_csv(sets: Mapping[str, DetectionSet], root: Path, *, copy: bool = False) -> dict[str, Findings]:
    """Write splits as tables, and return what was lost of each.

    Args:
        sets: the splits by their names, train first.
        root: folder of the dataset, which is empty.
        copy: the pictures, rather than link them; see `picture_files.place_pictures`.

    Raises:
        DataError: the splits have different classes, or names that cannot be written.
    """
    classes = shared_classes(sets)
    lost = {split: Findings(str(root / f"{split}.csv")) for split in sets}
    note_occurring_classes(sets, lost)
    for split, dataset in sets.items():
        note_plain_boxes(dataset, lost[split])
        note_stripped_names(classes, lost[split])
        names = picture_names(dataset.paths, lost[split])
        place_pictures(dataset.paths, names, root / "images" / split, copy=copy)
        with open(root / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
            _write_rows(file, dataset, names)
    return lost


def _write_rows(file: IO[str], dataset: DetectionSet, names: list[str]) -> None:
    crowded = any(image.objects.crowd.any() for image in dataset.images)
    table = csv.writer(file)
    table.writerow(["image", "xmin", "ymin", "xmax", "ymax", "class", *(["crowd"] if crowded else [])])
    for image, name in zip(dataset.images, names, strict=True):
        objects = image.objects
        for box, label, crowd in zip(objects.boxes.tolist(), objects.labels, objects.crowd, strict=True):
            flag = [int(crowd)] if crowded else []
            table.writerow([name, *map(plain, box), dataset.classes.names[label].strip(), *flag])
        if not len(objects):
            table.writerow([name, "", "", "", "", "", *([""] if crowded else [])])
