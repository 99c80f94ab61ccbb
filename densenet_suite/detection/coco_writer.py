"""COCO instances files: `annotations/instances_<split>.json` and `images/<split>/`; see `coco_json` for the reader.

The format holds all that a set holds. Ids stay, but for those of annotations where two share one. Boxes are written as
x, y, width, height, with the width that gives the right edge again, to the last bit.
"""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from densenet_suite.detection.coordinates import side_between
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.format_limits import note_difference, shared_classes
from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_names, place_pictures


def write_coco(sets: Mapping[str, DetectionSet], root: Path, *, copy: bool = False) -> dict[str, Findings]:
    """Write splits as a COCO dataset, and return what was lost of each.

    Args:
        sets: the splits by their names, train first.
        root: folder of the dataset, which is empty.
        copy: the pictures, rather than link them; see `picture_files.place_pictures`.

    Raises:
        DataError: the splits have different classes, or names that cannot be written.
    """
    classes = shared_classes(sets)
    lost = {}
    (root / "annotations").mkdir(parents=True)
    for split, dataset in sets.items():
        file = root / "annotations" / f"instances_{split}.json"
        lost[split] = Findings(str(file))
        names = picture_names(dataset.paths, lost[split])
        place_pictures(dataset.paths, names, root / "images" / split, copy=copy)
        content = {
            "images": [
                {"id": image.id, "file_name": name, "height": image.height, "width": image.width}
                for image, name in zip(dataset.images, names, strict=True)
            ],
            "annotations": _annotations(dataset, lost[split]),
            "categories": _categories(classes, lost[split]),
        }
        file.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return lost


def _categories(classes: ClassTable, lost: Findings) -> list[dict[str, Any]]:
    """Return the list, in the order of the ids, which is that of the classes when the file is read again."""
    by_id = sorted(zip(classes.ids, classes.names, strict=True))
    listed = [{"id": key, "name": name} for key, name in by_id]
    for label, (category, name) in enumerate(zip(listed, classes.names, strict=True)):
        if category["name"] != name:
            lost.warning("class-order-lost", f"class {label} is {name!r}, by the ids it is {category['name']!r}")
    return listed


def _annotations(dataset: DetectionSet, lost: Findings) -> list[dict[str, Any]]:
    ids = [key for image in dataset.images for key in image.objects.ids]
    unique = len(set(ids)) == len(ids)
    if not unique:
        lost.warning(
            "annotation-ids-numbered",
            f"{len(ids) - len(set(ids))} of {len(ids)} ids of annotations are used twice: all are numbered from 1",
        )
    running = count(1)
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        objects = image.objects
        rows = zip(
            objects.boxes.tolist(),
            objects.labels.tolist(),
            objects.crowd.tolist(),
            objects.areas.tolist(),
            objects.ids,
            objects.segmentations,
            strict=True,
        )
        for (x1, y1, x2, y2), label, crowd, area, key, outline in rows:
            width, height = side_between(x1, x2), side_between(y1, y2)
            annotation = {
                "id": key if unique else next(running),
                "image_id": image.id,
                "category_id": dataset.classes.ids[label],
                "bbox": [x1, y1, width, height],
                "area": area,
                "iscrowd": int(crowd),
            }
            if outline is not None:
                annotation["segmentation"] = outline
            annotations.append(annotation)
            note_difference(image, key, max(abs(x1 + width - x2), abs(y1 + height - y2)), lost)
    return annotations
