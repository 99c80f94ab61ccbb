"""Random changes of training images and of their boxes or masks; the only module that knows albumentations.

Every draw follows from the seed that is handed in, one per sample. albumentations 2.0.8 would otherwise give the same
draws in every worker and in every epoch, and seeds all its transforms alike, so that a flip always comes with the same
crop; here each transform has a seed of its own.

It also clips floats above 1, fills at most four bands, and the border of a mask with class 0. So the colours of
anything but 8-bit pictures are changed by our own arithmetic, and borders are filled before it warps.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from densenet_suite.errors import ConfigError
from densenet_suite.geometry import Letterbox, resize

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class AugmentPolicy:
    """How much training images change.

    Attributes:
        flip: probability of a horizontal mirror image.
        vertical_flip: probability of a vertical one, for pictures without an up, such as slides and aerial images.
        scale: smallest and largest size of the image, relative to just fitting the canvas, all equally likely as in
            EfficientDet's code; it is then cropped to the canvas, or padded to it, at a random place.
        brightness, contrast, saturation: largest change of each, as a share; 0 leaves it alone.
        hue: largest shift of the hue, as a share of the colour circle.
        min_visibility: a box of which a crop leaves less than this share of its area is dropped.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    scale: tuple[float, float] = (0.5, 1.6)
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    min_visibility: float = 0.15


class JointAugment:
    """Scale, crop, flip and recolour an image together with its boxes.

    Args:
        policy: how much.
        canvas: (height, width) of the result.
        fill: pixel of the padding.
    """

    def __init__(self, policy: AugmentPolicy, canvas: tuple[int, int], fill: Sequence[int]):
        self.policy = policy
        self.canvas = canvas
        self.fill = tuple(fill)

    def __call__(self, image: Array, boxes: Array, seed: int) -> tuple[Array, Array, Array]:
        """Return the changed image [h w c], the boxes [n 4] that are still visible, and their former rows.

        Args:
            image: uint8 [h w c].
            boxes: [m 4] xyxy in pixels, inside the image.
            seed: decides everything that is random.
        """
        rng = np.random.default_rng(seed)
        zoom = float(rng.uniform(*self.policy.scale))
        height, width = image.shape[:2]
        letterbox = Letterbox.fit((height, width), self.canvas, zoom)
        image = resize(image, *letterbox.resized)
        boxes = letterbox.boxes(boxes)
        _seed_each(self._pipeline, rng)
        changed = self._pipeline(image=image, bboxes=boxes.reshape(-1, 4), rows=np.arange(len(boxes)))
        kept = np.asarray(changed["rows"], np.int64).reshape(-1)
        return changed["image"], np.asarray(changed["bboxes"], np.float64).reshape(-1, 4), kept

    @cached_property
    def _pipeline(self) -> Any:
        library = _albumentations()
        policy = self.policy
        height, width = self.canvas
        transforms = [
            library.PadIfNeeded(height, width, position="random", border_mode=0, fill=self.fill),
            library.RandomCrop(height, width),
            library.HorizontalFlip(p=policy.flip),
            library.VerticalFlip(p=policy.vertical_flip),
            *_colour_changes(library, policy),
        ]
        boxes = library.BboxParams(
            "pascal_voc",
            label_fields=["rows"],
            min_visibility=policy.min_visibility,
            min_width=1,
            min_height=1,
            clip=True,
        )
        return library.Compose(transforms, bbox_params=boxes)


UNLABELLED = 255  # in masks
_REPEATED = 1  # OpenCV's BORDER_REPLICATE

# where a crop is cut: takes the mask, (height, width) of the crop and a generator, and returns (top, left), which are
# negative where the image is smaller than the crop
Chooser = Callable[[Array, tuple[int, int], np.random.Generator], tuple[int, int]]


@dataclass(frozen=True)
class MaskPolicy:
    """How much training images and their masks change.

    Attributes:
        flip: probability of a horizontal mirror image.
        vertical_flip: probability of a vertical one, for pictures without an up, such as slides and aerial images.
        rotate90: probability of a turn by 0 to 3 quarters; with both flips at 0.5 all eight positions are alike.
        scale: smallest and largest size, relative to the file's; halving is as likely as doubling.
        rotate: largest turn in degrees, both ways. What turns into the crop is the picture around it.
        elastic: standard deviation, in pixels, of a smooth random displacement (Simard et al. 2003, sec. 2), as for
            tissue and cells (Ronneberger et al., arXiv:1505.04597, sec. 3.1: 10 pixels); 0 leaves shapes alone.
        brightness, contrast: largest change of each, as a share; of anything but 8-bit grey or colour, brightness is
            shifted by this share of the bands' deviations.
        saturation: largest change, as a share, and
        hue: largest shift, as a share of the colour circle: of 8-bit colours only.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    scale: tuple[float, float] = (0.7, 1.4)
    rotate: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02


class Cut(NamedTuple):
    """What of a scene becomes a training sample: a window in file pixels, that may stick out, and its quarter turns."""

    top: int
    left: int
    height: int
    width: int
    quarters: int


class MaskAugment:
    """Cut a crop out of an image and its mask, and scale, turn, bend, flip and recolour it.

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
        policy: MaskPolicy,
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
        _seed_each(self._shapes, rng)
        changed = self._shapes(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(planes))
        image, planes = changed["image"], changed["mask"].transpose(2, 0, 1)
        if image.dtype == np.uint8 and image.shape[2] in (1, 3):
            _seed_each(self._colours, rng)
            image = self._colours(image=image)["image"]
        elif self.policy.brightness or self.policy.contrast:
            image = self._recoloured(image, rng)
        return np.ascontiguousarray(image), np.ascontiguousarray(planes[0] if mask.ndim == 2 else planes)

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
    def _shapes(self) -> Any:
        library = _albumentations()
        policy = self.policy
        transforms = []
        if policy.elastic:
            # white noise of -1 to 1, smoothed by a Gaussian of s pixels, has a deviation of 1 / (2 sqrt(3 pi) s)
            smooth = max(4.0, min(self.crop) / 16)
            alpha = policy.elastic * 2 * math.sqrt(3 * math.pi) * smooth
            bend = library.ElasticTransform(alpha, smooth, noise_distribution="uniform", border_mode=_REPEATED, p=1)
            transforms.append(bend)
        if policy.rotate:
            limit = (-policy.rotate, policy.rotate)
            transforms.append(library.Rotate(limit, border_mode=_REPEATED, p=1))
        if transforms:
            transforms.append(library.CenterCrop(*self.crop))
        transforms += [library.HorizontalFlip(p=policy.flip), library.VerticalFlip(p=policy.vertical_flip)]
        return library.Compose(transforms)

    @cached_property
    def _colours(self) -> Any:
        library = _albumentations()
        return library.Compose(_colour_changes(library, self.policy))

    def _recoloured(self, image: Array, rng: np.random.Generator) -> Array:
        """Change brightness and contrast in the unit of the pixels, all bands alike; 8 bits stay 8 bits."""
        policy = self.policy
        contrast = 1 + rng.uniform(-policy.contrast, policy.contrast)
        shift = rng.uniform(-policy.brightness, policy.brightness) * np.asarray(self.spread)
        means = image.mean((0, 1), dtype=np.float64).astype(np.float32)
        changed = image * np.float32(contrast) + (means * np.float32(1 - contrast) + shift.astype(np.float32))
        return changed.round().clip(0, 255).astype(np.uint8) if image.dtype == np.uint8 else changed


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


def _seed_each(pipeline: Any, rng: np.random.Generator) -> None:
    """Give each transform a seed of its own."""
    for transform, own_seed in zip(pipeline.transforms, rng.integers(2**32, size=16), strict=False):
        transform.set_random_seed(int(own_seed))


def _colour_changes(library: Any, policy: AugmentPolicy | MaskPolicy) -> list[Any]:
    changes = (policy.brightness, policy.contrast, policy.saturation, policy.hue)
    return [library.ColorJitter(*changes, p=0.8)] if any(changes) else []


def _albumentations() -> Any:
    """Import the library late, for it takes seconds, and quietly, for it would ask the network for its newest version.

    Raises:
        ConfigError: another version is installed; later ones under this name are not MIT and not tested.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    if albumentations.__version__ != "2.0.8":
        raise ConfigError(
            f"albumentations {albumentations.__version__} is installed, this version works with 2.0.8",
            hint="pip uninstall albumentationsx; pip install albumentations==2.0.8",
        )
    return albumentations
