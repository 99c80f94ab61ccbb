"""One crop of a scene and of its mask: cut, scaled, turned, bent, mirrored, recoloured.

What is cut out is decided before a pixel is read (`place`), so that of a large raster no more than a window is. Borders
are filled before anything is warped, with a pixel of any number of bands, and with 255 in the mask.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from densenet_suite.augment import affine, library, photometry, randaugment
from densenet_suite.augment.pixels import UNLABELLED, mirrored
from densenet_suite.augment.policy import AugmentPolicy
from densenet_suite.geometry import resize

Array = np.ndarray[Any, Any]

# where a crop is cut: takes the mask, (height, width) of the crop and a generator, and returns (top, left), which are
# negative where the image is smaller than the crop
Chooser = Callable[[Array, tuple[int, int], np.random.Generator], tuple[int, int]]


class Cut(NamedTuple):
    """What of a scene becomes a training sample: a window in file pixels, that may stick out, and its quarter turns."""

    top: int
    left: int
    height: int
    width: int
    quarters: int


class MaskAugment:
    """Cut a crop out of an image and its mask, and scale, turn, bend, mirror and recolour it.

    What lies outside of the image is `fill`, and 255 in the mask. Masks are never interpolated: they hold the values
    they had, and 255.

    Args:
        policy: how much.
        crop: (height, width) of the result.
        fill: pixel of what is outside.
        spread: deviation of each band in the training data, in the unit of the pixels: brightness is relative to it.
        choose: where the crop is cut.
        scale: pixels of the network per pixel of the file, before any change.
    """

    def __init__(
        self,
        policy: AugmentPolicy,
        crop: tuple[int, int],
        fill: Sequence[float],
        spread: Sequence[float],
        choose: Chooser,
        scale: float = 1.0,
    ):
        if len(fill) != len(spread):
            raise ValueError(f"fill has {len(fill)} bands and spread {len(spread)}: one of each for every band")
        self.policy = policy
        self.crop = crop
        self.fill = tuple(fill)
        self.spread = tuple(spread)
        self.choose = choose
        self.scale = scale

    def __call__(self, image: Array, mask: Array, seed: int) -> tuple[Array, Array]:
        """Return the crop of the image [h w c] and that of the mask [h w] or [k h w], dtypes as they were.

        Args:
            image: uint8, or float32 in any unit; [h w c] of any number of bands.
            mask: uint8 classes [h w], or [k h w] of 0, 1 and 255 where classes overlap.
            seed: decides everything that is random.

        Raises:
            ValueError: another dtype, or the two do not belong together.
        """
        _check(image, mask, len(self.fill))
        cut = self.place(mask, seed)
        planes = mask.reshape(-1, *mask.shape[-2:]).transpose(1, 2, 0)
        labels = cut_out(planes, cut, (UNLABELLED,)).transpose(2, 0, 1)
        return self.change(cut_out(image, cut, self.fill), labels[0] if mask.ndim == 2 else labels, cut, seed)

    def place(self, mask: Array, seed: int) -> Cut:
        """Return what is to be cut out of a scene with this mask, so that no more than that need be read."""
        rng = np.random.default_rng((seed, 0))
        zoom = self.scale * math.exp(rng.uniform(*np.log(self.policy.scale)))
        quarters = int(rng.integers(4)) if rng.random() < self.policy.rotate90 else 0
        window = _divided(_turned(self.crop, quarters), zoom)
        top, left = self.choose(mask, window, rng)
        height, width = _divided(_turned(self._piece, quarters), zoom)
        return Cut(top - (height - window[0]) // 2, left - (width - window[1]) // 2, height, width, quarters)

    def change(self, image: Array, mask: Array, cut: Cut, seed: int) -> tuple[Array, Array]:
        """Make the crop of what `place` told to cut out; arguments, result and errors are those of a call."""
        _check(image, mask, len(self.fill))
        rng = np.random.default_rng((seed, 1))
        planes = mask.reshape(-1, *mask.shape[-2:]).transpose(1, 2, 0)
        piece = _turned(self._piece, cut.quarters)
        image = np.rot90(resize(image, *piece), cut.quarters)
        planes = np.rot90(_nearest(planes, *piece), cut.quarters)
        if self._piece != self.crop:
            image, planes = _rimmed(image, self.fill), _rimmed(planes, (UNLABELLED,))
        if self._shapes:
            image, planes = library.warp(self._shapes, np.ascontiguousarray(image), np.ascontiguousarray(planes), rng)
            image, planes = (_middle(array, self.crop) for array in (image, planes))
        flips = rng.random() < self.policy.vertical_flip, rng.random() < self.policy.flip
        image, planes = (mirrored(np.ascontiguousarray(array), *flips) for array in (image, planes))
        operations = randaugment.draw_operations(self.policy, self.crop, image.dtype, image.shape[2], rng)
        if operations.warp is not None:
            matrix = affine.about(operations.warp, self.crop)
            image = affine.warped(image, matrix, self.crop, self.fill, nearest=False)
            planes = affine.warped(planes, matrix, self.crop, (UNLABELLED,) * planes.shape[2], nearest=True)
        image = photometry.recoloured(image, self.policy, np.asarray(self.spread), rng)
        image = randaugment.recoloured(image, operations.colours, np.asarray(self.spread))
        labels = planes.transpose(2, 0, 1)
        return np.ascontiguousarray(image), np.ascontiguousarray(labels[0] if mask.ndim == 2 else labels)

    def changed(self, policy: AugmentPolicy, crop: tuple[int, int]) -> Self:
        """Return the same by another policy, or of another size."""
        return type(self)(policy, crop, self.fill, self.spread, self.choose, self.scale)

    @cached_property
    def _piece(self) -> tuple[int, int]:
        """The size of what is turned and bent, so that the crop in its middle is full."""
        policy, crop = self.policy, self.crop
        if not policy.rotate and not policy.elastic:
            return crop
        margin = 2 + math.ceil(3 * policy.elastic)

        def around(side: int, other: int) -> int:
            # of the crop's bounding box at the worst angle; an even number more, so that the middle stays the middle
            angle = min(math.radians(policy.rotate), math.atan2(other, side))
            grown = side * math.cos(angle) + other * math.sin(angle)
            return side + 2 * (math.ceil((grown - side) / 2) + margin)

        return around(crop[0], crop[1]), around(crop[1], crop[0])

    @cached_property
    def _shapes(self) -> tuple[Any, ...]:
        policy = self.policy
        bend = (library.elastic(policy.elastic, max(4.0, min(self.crop) / 16)),) if policy.elastic else ()
        return (*bend, library.rotation(policy.rotate)) if policy.rotate else bend


def cut_out(array: Array, cut: Cut, fill: Sequence[float]) -> Array:
    """Return a window of [h w c], a copy; what of it lies outside is `fill`."""
    height, width, depth = array.shape
    window = np.empty((cut.height, cut.width, depth), array.dtype)
    top, bottom = (min(max(row, 0), height) for row in (cut.top, cut.top + cut.height))
    left, right = (min(max(column, 0), width) for column in (cut.left, cut.left + cut.width))
    if (bottom - top, right - left) != (cut.height, cut.width):
        window[:] = np.asarray(fill, array.dtype)
    window[top - cut.top : bottom - cut.top, left - cut.left : right - cut.left] = array[top:bottom, left:right]
    return window


def _rimmed(array: Array, fill: Sequence[float]) -> Array:
    """Return a copy of [h w c] with its outermost pixels filled: warps repeat them outwards."""
    array = array.copy()
    array[[0, -1]] = array[:, [0, -1]] = np.asarray(fill, array.dtype)
    return array


def _middle(array: Array, size: tuple[int, int]) -> Array:
    top, left = ((whole - side) // 2 for whole, side in zip(array.shape[:2], size, strict=True))
    return array[top : top + size[0], left : left + size[1]]


def _turned(size: tuple[int, int], quarters: int) -> tuple[int, int]:
    return size if quarters % 2 == 0 else (size[1], size[0])


def _nearest(labels: Array, height: int, width: int) -> Array:
    """Resize [h w k] to the nearest pixel, by their centres, as `resize` does for images."""
    rows = ((np.arange(height) + 0.5) * (labels.shape[0] / height)).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * (labels.shape[1] / width)).astype(np.intp)
    return labels[rows[:, None], columns]


def _divided(size: Sequence[int], zoom: float) -> tuple[int, int]:
    return max(1, round(size[0] / zoom)), max(1, round(size[1] / zoom))


def _check(image: Array, mask: Array, bands: int) -> None:
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"image is {image.dtype}, augmentation takes uint8 or float32")
    if mask.dtype != np.uint8:
        raise ValueError(f"mask is {mask.dtype}, augmentation takes uint8 with 255 for what is not labelled")
    if image.ndim != 3 or mask.ndim not in (2, 3) or image.shape[:2] != mask.shape[-2:] or image.shape[2] != bands:
        raise ValueError(
            f"image {image.shape} and mask {mask.shape}, expected [h w {bands}] and [h w] or [k h w] of the same size"
        )
