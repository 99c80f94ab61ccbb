"""Which pictures a sample is made of, and where they meet: drawn here, not by a library, by (seed, epoch, index).

So any sample can be replayed, whatever worker makes it, and in whatever order.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from densenet_suite.augment.policy import AugmentPolicy
from densenet_suite.sampling import Stream, derive_seed

_ERASED = (0.02, 0.2)  # share of the canvas
_ASPECT = 3.3


@dataclass(frozen=True)
class Part:
    """A picture, and the seed of its own changes."""

    index: int
    seed: int


class Area(NamedTuple):
    """A rectangle of the canvas."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """What it is of an array [h w ...]."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Mix:
    """What a sample is made of.

    Attributes:
        parts: one picture, or four of a mosaic, each with its area.
        through: the picture that is seen through it.
        pasted: the picture that objects are taken of.
        chosen: the seed of which objects.
        erased: the area that is erased.
    """

    parts: tuple[tuple[Part, Area], ...]
    through: Part | None = None
    pasted: Part | None = None
    chosen: int = 0
    erased: Area | None = None


def draw_mix(policy: AugmentPolicy, pictures: int, canvas: tuple[int, int], seed: int, epoch: int, index: int) -> Mix:
    """Draw what a sample is made of; partners are any of the pictures, itself too.

    Args:
        policy: of this epoch.
        pictures: how many there are.
        canvas: (height, width).
        seed: of the run.
        epoch: of the sample.
        index: of the sample, the first picture.
    """
    first = Part(index, derive_seed(seed, Stream.SAMPLE, epoch, index))
    parts: tuple[tuple[Part, Area], ...] = ((first, Area(0, 0, *canvas)),)
    if not (policy.mosaic or policy.mixup or policy.copy_paste or policy.cutout):
        return Mix(parts)
    rng = np.random.default_rng(derive_seed(seed, Stream.PARTNERS, epoch, index))

    def partner() -> Part:
        return Part(int(rng.integers(pictures)), int(rng.integers(2**63)))

    if rng.random() < policy.mosaic and min(canvas) >= 4:
        areas, order = _quadrants(canvas, rng), rng.permutation(4)
        several = (first, partner(), partner(), partner())
        parts = tuple((part, areas[corner]) for part, corner in zip(several, order, strict=True))
    through = partner() if rng.random() < policy.mixup else None
    pasted = partner() if rng.random() < policy.copy_paste else None
    erased = _rectangle(canvas, rng) if rng.random() < policy.cutout else None
    return Mix(parts, through, pasted, int(rng.integers(2**63)), erased)


def _quadrants(canvas: tuple[int, int], rng: np.random.Generator) -> list[Area]:
    """Divide a canvas at a place in the middle half of each side."""
    row, column = (int(rng.integers(side // 4, side - side // 4 + 1)) for side in canvas)
    rows, columns = ((0, row), (row, canvas[0] - row)), ((0, column), (column, canvas[1] - column))
    return [Area(top, left, height, width) for top, height in rows for left, width in columns]


def _rectangle(canvas: tuple[int, int], rng: np.random.Generator) -> Area:
    area = rng.uniform(*_ERASED) * canvas[0] * canvas[1]
    aspect = math.exp(rng.uniform(-math.log(_ASPECT), math.log(_ASPECT)))
    height, width = (
        min(side, max(1, round(length)))
        for side, length in zip(canvas, (math.sqrt(area * aspect), math.sqrt(area / aspect)), strict=True)
    )
    return Area(int(rng.integers(canvas[0] - height + 1)), int(rng.integers(canvas[1] - width + 1)), height, width)
