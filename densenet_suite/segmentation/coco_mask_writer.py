"""Masks as run lengths in COCO instances files, without loss; see `coco_masks` for the reader.

Each class of an image is one annotation. Where nothing is known, a crowd region of the first class lies, or of its own
where classes overlap; `background`, as the first class, is where no annotation is. Outlines of polygons are not
written: they do not give back every mask.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_names, place_pictures
from densenet_suite.segmentation.coco_masks import BACKGROUND
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

Array = np.ndarray[Any, Any]


def write_coco_masks(sets: Mapping[str, SegmentationSet], root: Path, *, copy: bool = False) -> dict[str, Findings]:
    """Write splits as a COCO dataset, and return what was lost of each.

    Args:
        sets: the splits by their names, all of the same classes.
        root: folder of the dataset, which is empty.
        copy: the pictures, rather than link them; see `picture_files.place_pictures`.

    Raises:
        DataError: there are no splits.
    """
    if not sets:
        raise DataError("there is no split to write")
    (root / "annotations").mkdir(parents=True)
    lost = {}
    for split, dataset in sets.items():
        file = root / "annotations" / f"instances_{split}.json"
        lost[split] = Findings(str(file))
        names = picture_names(dataset.paths, lost[split])
        place_pictures(dataset.paths, names, root / "images" / split, copy=copy)
        classes = dataset.classes
        if not classes.multilabel and BACKGROUND not in classes.names:
            lost[split].warning("background-added", f"the file has no class {BACKGROUND!r}: its reader adds one")
        content: dict[str, Any] = {
            "images": [
                {"id": i, "file_name": name, "height": scene.height, "width": scene.width}
                for i, (scene, name) in enumerate(zip(dataset.scenes, names, strict=True), start=1)
            ],
            "annotations": [],
            "categories": [{"id": label + 1, "name": classes.names[label]} for label in _listed(classes)],
        }
        for i, scene in enumerate(dataset.scenes, start=1):
            for label, region, crowd in _regions(scene.mask.decode().mask, classes):
                entry = {"id": len(content["annotations"]) + 1, "image_id": i, "category_id": label + 1}
                content["annotations"].append({**entry, **run_lengths(region), "iscrowd": int(crowd)})
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return lost


def run_lengths(region: Array) -> dict[str, Any]:
    """Return segmentation, area and bbox (x, y, width, height) of the pixels [h w] of a region, as COCO has them."""
    runs = coco.encode(np.asfortranarray(region, np.uint8))
    return {
        "segmentation": {"size": list(region.shape), "counts": runs["counts"].decode()},
        "area": int(coco.area(runs)),
        "bbox": coco.toBbox(runs).tolist(),
    }


def _listed(classes: MaskClasses) -> range:
    """Return the labels that are categories: all, but for a background that comes first."""
    return range(int(not classes.multilabel and classes.names[0] == BACKGROUND), len(classes))


def _regions(mask: Array, classes: MaskClasses) -> Iterator[tuple[int, Array, bool]]:
    """Yield label, pixels [h w], and whether they are those of which nothing is known."""
    listed = _listed(classes)
    for label in listed:
        layers = mask[label] if classes.multilabel else mask
        inside = layers == (1 if classes.multilabel else label)
        unknown = layers == IGNORE
        if inside.any():
            yield label, inside, False
        if unknown.any() and (classes.multilabel or label == listed[0]):
            yield label, unknown, True
