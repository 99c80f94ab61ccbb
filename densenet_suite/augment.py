"""Random changes of training images and their boxes; the only module that knows albumentations.

Every draw follows from the seed that is handed in, one per sample. albumentations 2.0.8 would otherwise give the same
draws in every worker and in every epoch, and seeds all its transforms alike, so that a flip always comes with the same
crop; here each transform has a seed of its own.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
        for transform, own_seed in zip(self._pipeline.transforms, rng.integers(2**32, size=16), strict=False):
            transform.set_random_seed(int(own_seed))
        changed = self._pipeline(image=image, bboxes=boxes.reshape(-1, 4), rows=np.arange(len(boxes)))
        kept = np.asarray(changed["rows"], np.int64).reshape(-1)
        return changed["image"], np.asarray(changed["bboxes"], np.float64).reshape(-1, 4), kept

    @cached_property
    def _pipeline(self) -> Any:
        library = _albumentations()
        policy = self.policy
        height, width = self.canvas
        colour = (policy.brightness, policy.contrast, policy.saturation, policy.hue)
        transforms = [
            library.PadIfNeeded(height, width, position="random", border_mode=0, fill=self.fill),
            library.RandomCrop(height, width),
            library.HorizontalFlip(p=policy.flip),
            library.VerticalFlip(p=policy.vertical_flip),
        ]
        if any(colour):
            transforms.append(library.ColorJitter(*colour, p=0.8))
        boxes = library.BboxParams(
            "pascal_voc",
            label_fields=["rows"],
            min_visibility=policy.min_visibility,
            min_width=1,
            min_height=1,
            clip=True,
        )
        return library.Compose(transforms, bbox_params=boxes)


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
