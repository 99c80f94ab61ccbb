"""Scenes of any size in tiles: where the tiles lie, and how what is found in them becomes one answer.

Tiles begin at multiples of the network's stride, so that a network without global pooling gives the middle of every
tile the numbers that it gives the whole scene. Overlapping tiles are averaged under a Gaussian window (Isensee et al.,
nnU-Net, arXiv:1809.10486), row by row: memory depends on the tile, the width and the classes, not on the height.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from densenet_suite.errors import ConfigError

_STRIP = 32  # rows that are handed on at a time: what is made of them is a fraction of the buffers


class Window(NamedTuple):
    """A rectangle of a scene in pixels; it may run over the lower and the right edge."""

    top: int
    left: int
    height: int
    width: int

    def within(self, height: int, width: int) -> "Window":
        """Return the part that lies in a scene of this size."""
        return Window(self.top, self.left, min(self.height, height - self.top), min(self.width, width - self.left))


class Band(NamedTuple):
    """A few rows of a scene that no further tile will touch, from the full width.

    Attributes:
        top: number of the first row.
        probabilities: the average of the tiles.
        disagreement: standard deviation between the tiles, the root of the mean variance of the classes; zero where
            only one tile lies.
    """

    top: int
    probabilities: Float[Tensor, "k h w"]
    disagreement: Float[Tensor, "h w"]


@dataclass(frozen=True)
class TilePlan:
    """Where tiles of one size lie in a scene.

    Attributes:
        scene: (height, width) in pixels.
        tile: (height, width), nowhere larger than the scene.
        tops: first rows of the tiles, rising.
        lefts: first columns, rising.
    """

    scene: tuple[int, int]
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def cover(cls, scene: tuple[int, int], tile: tuple[int, int], overlap: int, multiple: int = 1) -> Self:
        """Cover a scene with as few tiles as overlap by at least `overlap` pixels.

        Tiles begin at multiples of `multiple` and overlap as evenly as that allows; the last may run over the edge by
        less than `multiple`. A side that fits into the tile is not divided.

        Raises:
            ConfigError: tile and overlap leave no step of `multiple` pixels.
        """
        if min(tile) - overlap < multiple or overlap < 0:
            raise ConfigError(
                f"tiles of {tile[0]}x{tile[1]} with an overlap of {overlap} cannot begin at multiples of {multiple}",
                hint=f"an overlap from 0 to {max(0, min(tile) - multiple)}, or tiles of {overlap + multiple} or more",
            )
        tops, lefts = (_origins(size, side, overlap, multiple) for size, side in zip(scene, tile, strict=True))
        return cls(scene, (min(tile[0], scene[0]), min(tile[1], scene[1])), tops, lefts)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def row(self, top: int) -> list[Window]:
        """Return the tiles that begin at one row, from left to right."""
        return [Window(top, left, *self.tile) for left in self.lefts]

    def overlaps(self, top: int, height: int) -> Bool[Tensor, "h w"]:
        """Say where in these rows more than one tile lies."""
        rows = _covers(self.tops, self.tile[0], top, top + height)
        columns = _covers(self.lefts, self.tile[1], 0, self.scene[1])
        return (rows > 1)[:, None] | (columns > 1)


def gaussian_window(tile: tuple[int, int]) -> Float[Tensor, "h w"]:
    """Return the weight of each pixel of a tile: 1 in the middle, a standard deviation is an eighth of the side."""
    rows, columns = (_bell(side) for side in tile)
    return rows[:, None] * columns


def blend_rows(
    plan: TilePlan, predict: Callable[[Sequence[Window]], Float[Tensor, "n k h w"]], batch: int = 1
) -> Iterator[Band]:
    """Predict a scene tile by tile and yield its rows, from the top, as soon as they are finished.

    Args:
        plan: where the tiles lie.
        predict: gives probabilities (not logits: their average means nothing) of each pixel of some tiles, also of what
            runs over the edge, on any device.
        batch: how many tiles `predict` is asked for at a time, at most; they are from one row.
    """
    mean: Tensor | None = None
    for top, after in pairwise((*plan.tops, plan.scene[0])):
        windows = plan.row(top)
        for start in range(0, len(windows), batch):
            chunk = windows[start : start + batch]
            for window, tile in zip(chunk, predict(chunk), strict=True):
                if mean is None:
                    mean = tile.new_zeros((len(tile), plan.tile[0], plan.scene[1]))
                    weight, spread = torch.zeros_like(mean[0]), torch.zeros_like(mean[0])
                    kernel = gaussian_window(plan.tile).to(tile)
                _, left, height, width = window.within(*plan.scene)
                place, cut = (..., slice(height), slice(left, left + width)), (..., slice(height), slice(width))
                add_tile(mean[place], weight[place], spread[place], tile[cut], kernel[cut])
        assert mean is not None
        rows = after - top
        for start in range(0, rows, _STRIP):
            part = slice(start, min(start + _STRIP, rows))
            # at pixels where only one tile lies the spread is exactly zero
            yield Band(top + start, mean[:, part].clone(), (spread[part] / weight[part] / len(mean)).sqrt())
        for buffer in (mean, weight, spread):
            _move_up(buffer, rows)


def add_tile(
    mean: Float[Tensor, "k h w"],
    weight: Float[Tensor, "h w"],
    spread: Float[Tensor, "h w"],
    tile: Float[Tensor, "k h w"],
    kernel: Float[Tensor, "h w"],
) -> None:
    """Take a tile into the running weighted mean and sum of squared deviations, in place.

    Unlike a difference of sums this is exact where tiles agree, and leaves a single tile as it is.

    Reference: West, "Updating mean and variance estimates: an improved method", CACM 22(9), 1979.
    """
    weight += kernel
    difference = tile - mean
    mean += difference * (kernel / weight)
    spread += kernel * (difference * (tile - mean)).sum(0)


def _move_up(buffer: Tensor, rows: int) -> None:
    """Drop the first rows and open as many empty ones below."""
    keep = buffer.shape[-2] - rows
    for start in range(0, keep, rows):  # in pieces that do not overlap, as the rows move within one buffer
        stop = min(start + rows, keep)
        buffer[..., start:stop, :] = buffer[..., start + rows : stop + rows, :]
    buffer[..., max(keep, 0) :, :] = 0


def _origins(size: int, side: int, overlap: int, multiple: int) -> tuple[int, ...]:
    if size <= side:
        return (0,)
    last = -(-(size - side) // multiple)  # in units of `multiple`, as all below
    steps = -(-last // ((side - overlap) // multiple))
    return tuple(i * last // steps * multiple for i in range(steps + 1))


def _covers(origins: Sequence[int], side: int, start: int, stop: int) -> Tensor:
    """Count the tiles over each of some pixels of one axis."""
    counts = torch.zeros(stop - start, dtype=torch.int64)
    for origin in origins[bisect_right(origins, start - side) : bisect_left(origins, stop)]:
        counts[max(0, origin - start) : origin + side - start] += 1
    return counts


def _bell(side: int) -> Tensor:
    place = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    return torch.exp(-0.5 * (place / (side / 8)) ** 2).float()
