"""Connected regions of masks, as objects: what becomes of masks where only boxes are wanted.

Two objects that touch become one, and one that is cut in two by another becomes two: of which pixel belongs to which
object, a mask of classes knows nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from densenet_suite.segmentation.coco_mask_writer import run_lengths
from densenet_suite.segmentation.coco_masks import BACKGROUND
from densenet_suite.segmentation.structures import MaskClasses

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MaskRegion:
    """Pixels of one class that touch each other, also at corners: label, box xyxy, area, run lengths as in COCO."""

    label: int
    box: tuple[float, float, float, float]
    area: int
    segmentation: dict[str, Any]


def connected_regions(mask: Array, classes: MaskClasses) -> Iterator[MaskRegion]:
    """Yield the regions of every class but background, class by class.

    Args:
        mask: uint8 [h w], or [k h w] where classes overlap; what is 255 belongs to none.
        classes: that it has.
    """
    for label, name in enumerate(classes.names):
        if name == BACKGROUND and not classes.multilabel:
            continue
        inside = (mask[label] == 1) if classes.multilabel else (mask == label)
        count, numbered, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
        for i in range(1, count):
            x, y, width, height, area = (int(value) for value in stats[i])
            yield MaskRegion(label, (x, y, x + width, y + height), area, run_lengths(numbered == i)["segmentation"])
