"""Objects of a sample: their boxes, where each comes from, and how much of each is left in sight.

A row keeps its origin through everything, so labels, ids and crowd flags are looked up there and cannot get mixed up.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

_SMALLEST = 1.0  # side in pixels


class Objects(NamedTuple):
    """What is in sight.

    Attributes:
        boxes: [n 4] xyxy in pixels of the canvas.
        origins: int64 [n 2], the index of the picture and the object's row in it.
        shares: [n], how much of each object's area is left.
    """

    boxes: Array
    origins: Array
    shares: Array

    @classmethod
    def in_sight(cls, boxes: Array, index: int, canvas: tuple[int, int], least: float) -> Self:
        """Return what of boxes, mapped to a canvas of (height, width), lies on it; less than `least` is dropped."""
        clipped = boxes.clip(0, np.array(canvas[::-1] * 2, np.float64))
        width, height = (clipped[:, 2:] - clipped[:, :2]).T
        whole_width, whole_height = (boxes[:, 2:] - boxes[:, :2]).T
        left, areas = width * height, whole_width * whole_height
        kept = np.flatnonzero((width >= _SMALLEST) & (height >= _SMALLEST) & (left >= least * areas))
        origins = np.empty((len(kept), 2), np.int64)
        origins[:, 0], origins[:, 1] = index, kept
        return cls(clipped[kept], origins, left[kept] / areas[kept])

    @classmethod
    def joined(cls, several: Sequence["Objects"]) -> Self:
        """Put objects of several pictures into one."""
        return cls(*(np.concatenate(parts) for parts in zip(*several, strict=True)))

    def moved(self, top: int, left: int) -> Self:
        """Return them on a canvas that the old one lies on."""
        return self._replace(boxes=self.boxes + np.array([left, top, left, top], np.float64))

    def taken(self, rows: Array) -> Self:
        """Return some of them."""
        return type(self)(self.boxes[rows], self.origins[rows], self.shares[rows])

    def covered(self, cover: Array) -> Array:
        """Return which share of each box lies under what covers it, uint8 [h w] of 0 and 1."""
        sums = cv2.integral(cover)
        height, width = cover.shape
        x1, y1 = (np.floor(self.boxes[:, i]).astype(int).clip(0, side - 1) for i, side in ((0, width), (1, height)))
        x2, y2 = (np.ceil(self.boxes[:, i]).astype(int) for i in (2, 3))
        x2, y2 = np.maximum(x2, x1 + 1), np.maximum(y2, y1 + 1)
        return (sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]) / ((x2 - x1) * (y2 - y1))

    def behind(self, cover: Array, least: float) -> Self:
        """Return what is left in sight behind what covers it; of what less than `least` is left is dropped."""
        left = self.shares * (1 - self.covered(cover))
        kept = np.flatnonzero((left >= least) & (left > 0))
        return type(self)(self.boxes[kept], self.origins[kept], left[kept])
