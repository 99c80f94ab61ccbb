"""All boxes of a split in one table of arrays, for what is counted over all of them at once."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from densenet_suite.detection.datasets import DetectionSet

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class BoxTable:
    """All boxes of a split that have a place in their pictures.

    Attributes:
        boxes: [n 4] xyxy in pixels of the files, as they are written.
        labels: [n].
        crowd: [n].
        image: [n] number of the picture, ascending.
        sizes: [m 2] height and width of each picture.
    """

    boxes: Array
    labels: Array
    crowd: Array
    image: Array
    sizes: Array

    @classmethod
    def of(cls, split: DetectionSet) -> Self:
        """Collect the boxes of a split."""
        objects = [image.objects for image in split.images]
        counts = [len(entry) for entry in objects]
        return cls(
            boxes=np.concatenate([np.zeros((0, 4)), *(entry.boxes for entry in objects)]),
            labels=np.concatenate([np.zeros(0, np.int64), *(entry.labels for entry in objects)]),
            crowd=np.concatenate([np.zeros(0, bool), *(entry.crowd for entry in objects)]),
            image=np.repeat(np.arange(len(objects)), counts),
            sizes=np.array([(image.height, image.width) for image in split.images], np.int64).reshape(-1, 2),
        )

    @property
    def trained(self) -> Array:
        """Which boxes are trained on: all but crowd regions."""
        return ~self.crowd

    def limits(self) -> Array:
        """Return [n 4] the width, height, width and height of each box's picture."""
        return self.sizes[self.image][:, [1, 0, 1, 0]]

    def clipped(self) -> Array:
        """Return [n 4] the boxes cut off at the borders."""
        return np.clip(self.boxes, 0, self.limits())
