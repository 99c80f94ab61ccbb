"""Where each pixel of a file goes, decided before any is read.

A plan is drawn from the size of the file and a seed alone. It says which window of the file is seen and how large a
picture need be decoded for it (`least`), so that a JPEG may be decoded at a half or an eighth; then only the window is
resized. Both bounds of a window are whole pixels of the file, and both of its place are whole pixels of the canvas: so
the map is exact, for boxes as for pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from densenet_suite.augment import affine
from densenet_suite.augment.pixels import mirrored, padded, shrink_or_enlarge, turned
from densenet_suite.augment.policy import AugmentPolicy
from densenet_suite.geometry import Letterbox

Array = np.ndarray[Any, Any]
Change = Callable[[Array], Array]


class Span(NamedTuple):
    """What of one side of a file is seen, and where: `length` pixels from `start`, as `extent` ones from `offset`."""

    start: int
    length: int
    offset: int
    extent: int

    @classmethod
    def draw(cls, side: int, resized: int, room: int, rng: np.random.Generator) -> Self:
        """Draw where a side that is resized lies in its room, or which part of it does where it is longer."""
        if resized <= room:
            return cls(0, side, int(rng.integers(room - resized + 1)), resized)
        length = min(side, max(1, round(room * side / resized)))
        return cls(int(rng.integers(side - length + 1)), length, 0, room)

    @property
    def scale(self) -> float:
        """Pixels of the canvas per pixel of the file."""
        return self.extent / self.length


@dataclass(frozen=True, eq=False)
class Plan:
    """The geometry of one picture in one sample.

    Attributes:
        source: (height, width) of the file.
        canvas: (height, width) of the result.
        rows, columns: what of the file is seen, before it is turned.
        quarters: turns of it, counter-clockwise, and then
        vertical, horizontal: whether it is mirrored, and then
        warp: what turns and shears the canvas, [3 3] of (x, y, 1); None for nothing.
    """

    source: tuple[int, int]
    canvas: tuple[int, int]
    rows: Span
    columns: Span
    quarters: int = 0
    vertical: bool = False
    horizontal: bool = False
    warp: Array | None = None

    @classmethod
    def draw(
        cls,
        source: tuple[int, int],
        canvas: tuple[int, int],
        policy: AugmentPolicy,
        rng: np.random.Generator,
        warp: Array | None = None,
        *,
        fitted: tuple[int, int] | None = None,
    ) -> Self:
        """Draw a plan.

        Args:
            source: (height, width) of the file.
            canvas: (height, width) of the result.
            policy: how much may change.
            rng: what is random.
            warp: what turns and shears it further, [3 3] of (x, y, 1) about the middle of the canvas.
            fitted: the canvas that scale 1 just fits, where it is not this one, but one of which this is a part.
        """
        zoom = float(rng.uniform(*policy.scale))
        quarters = int(rng.integers(4)) if rng.random() < policy.rotate90 else 0
        frame, fitting = (size if quarters % 2 == 0 else size[::-1] for size in (canvas, fitted or canvas))
        resized = Letterbox.fit(source, fitting, zoom).resized
        rows, columns = (Span.draw(*side, rng) for side in zip(source, resized, frame, strict=True))
        vertical, horizontal = rng.random() < policy.vertical_flip, rng.random() < policy.flip
        if policy.rotate:
            turn = affine.rotation(rng.uniform(-policy.rotate, policy.rotate))
            warp = turn if warp is None else warp @ turn
        about = None if warp is None else affine.about(warp, canvas)
        return cls(source, canvas, rows, columns, quarters, vertical, horizontal, about)

    @property
    def least(self) -> tuple[int, int]:
        """The smallest (height, width) of the whole picture that loses nothing."""
        height, width = (
            min(side, math.ceil(side * span.scale))
            for side, span in zip(self.source, (self.rows, self.columns), strict=True)
        )
        return height, width

    @cached_property
    def matrix(self) -> Array:
        """Pixels of the file to those of the canvas, [3 3] of (x, y, 1)."""
        rows, columns = self.rows, self.columns
        scaled = affine.scaling(
            columns.scale,
            rows.scale,
            columns.offset - columns.start * columns.scale,
            rows.offset - rows.start * rows.scale,
        )
        placed = affine.turning(self.quarters, self._frame) @ scaled if self.quarters else scaled
        if self.vertical or self.horizontal:
            placed = affine.mirroring(self.vertical, self.horizontal, self.canvas) @ placed
        return placed if self.warp is None else self.warp @ placed

    def image(self, pixels: Array, fill: Sequence[float], change: Change | None = None) -> Array:
        """Return the canvas [h w c].

        Args:
            pixels: the whole picture [h w c], of the file's size or a smaller one.
            fill: pixel of what is outside.
            change: of the colours of what is seen; what is outside stays as it is.
        """
        ratio = (pixels.shape[0] / self.source[0], pixels.shape[1] / self.source[1])
        if self.warp is not None:
            return self._warped(pixels, ratio, fill, change)
        top, bottom = _bounds(self.rows, ratio[0], pixels.shape[0])
        left, right = _bounds(self.columns, ratio[1], pixels.shape[1])
        piece = shrink_or_enlarge(pixels[top:bottom, left:right], self.rows.extent, self.columns.extent)
        piece = change(piece) if change else piece
        whole = padded(piece, self.rows.offset, self.columns.offset, self._frame, fill)
        whole = turned(whole, self.quarters)
        return mirrored(whole, self.vertical, self.horizontal, in_place=not np.may_share_memory(whole, pixels))

    def boxes(self, boxes: Array) -> Array:
        """Map boxes [n 4], xyxy in pixels of the file, to the canvas; they may stick out of it."""
        return affine.moved_boxes(boxes, self.matrix)

    def points(self, points: Array) -> Array:
        """Map points [n 2], (x, y) in pixels of the file, to the canvas."""
        return affine.moved(points, self.matrix)

    @property
    def _frame(self) -> tuple[int, int]:
        return self.canvas if self.quarters % 2 == 0 else self.canvas[::-1]

    def _warped(self, pixels: Array, ratio: tuple[float, float], fill: Sequence[float], change: Change | None) -> Array:
        """Cut out all that is seen after the warp, resize that, and warp it."""
        height, width = self.canvas
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        seen = affine.moved(corners, np.linalg.inv(self.matrix)) * ratio[::-1]
        low, high = np.floor(seen.min(0)).astype(int) - 2, np.ceil(seen.max(0)).astype(int) + 2
        left, top = np.maximum(low, 0)
        right, bottom = np.minimum(high, (pixels.shape[1], pixels.shape[0]))
        if left >= right or top >= bottom:
            return np.full((*self.canvas, pixels.shape[2]), fill, pixels.dtype)
        window = pixels[top:bottom, left:right]
        scales = (self.rows.scale / ratio[0], self.columns.scale / ratio[1])
        size = [max(1, round(side * min(1.0, scale))) for side, scale in zip(window.shape[:2], scales, strict=True)]
        piece = shrink_or_enlarge(window, *size)
        piece = change(piece) if change else piece
        to_file = affine.scaling(
            window.shape[1] / size[1] / ratio[1],
            window.shape[0] / size[0] / ratio[0],
            left / ratio[1],
            top / ratio[0],
        )
        return affine.warped(piece, self.matrix @ to_file, self.canvas, fill, nearest=False)


def _bounds(span: Span, ratio: float, side: int) -> tuple[int, int]:
    """Return the first pixel of a span and that behind its last, in a picture that was decoded smaller."""
    first = min(round(span.start * ratio), side - 1)
    return first, max(first + 1, min(side, round((span.start + span.length) * ratio)))
