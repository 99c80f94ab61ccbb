"""Samples of detection: a picture with its boxes, or several put together."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from densenet_suite.augment import photometry, randaugment
from densenet_suite.augment.mixing import Part, draw_mix
from densenet_suite.augment.objects import Objects
from densenet_suite.augment.plan import Plan
from densenet_suite.augment.policy import AugmentPolicy

Array = np.ndarray[Any, Any]

_SPREAD = 58.0  # deviation of ImageNet's grey levels, which noise is a share of


class Pictures(Protocol):
    """Labelled pictures, as augmentation asks for them; all coordinates are pixels of the files."""

    def __len__(self) -> int:
        """Return how many there are."""

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a file."""

    def pixels(self, index: int, at_least: tuple[int, int]) -> Array:
        """Return the whole picture, uint8 [h w c], of the file's size or smaller, but not below `at_least`."""

    def boxes(self, index: int) -> Array:
        """Return the boxes that are trained on, [n 4] xyxy, inside the picture."""

    def polygons(self, index: int, row: int) -> Sequence[Array]:
        """Return the outlines of an object, each [p 2] of (x, y); none where only its box is known."""


class Augmented(NamedTuple):
    """A sample: uint8 [h w c], boxes [n 4] xyxy in its pixels, and the (picture, row) that each comes from [n 2]."""

    image: Array
    boxes: Array
    origins: Array


class DetectionAugment:
    """Make samples of labelled pictures.

    Args:
        policy: how much they change.
        canvas: (height, width) of the result.
        fill: pixel of the padding, of 1 or 3 bands.
        seed: of the run.
        epochs: of the run, of which the last `policy.plain_epochs` are plain; None for no end.
    """

    def __init__(
        self,
        policy: AugmentPolicy,
        canvas: tuple[int, int],
        fill: Sequence[int],
        seed: int = 0,
        epochs: int | None = None,
    ):
        self.policy = policy
        self.canvas = canvas
        self.fill = tuple(fill)
        self.seed = seed
        self.epochs = epochs
        self._spread = np.full(len(self.fill), _SPREAD)

    def plan(self, source: tuple[int, int], seed: int) -> Plan:
        """Return the geometry of a picture of (height, width) that is a sample by itself."""
        return self._drawn(source, seed, self.policy, self.canvas)[0]

    def __call__(self, image: Array, boxes: Array, seed: int) -> tuple[Array, Array, Array]:
        """Return one picture, changed [h w c], the boxes [n 4] that are still in sight, and their former rows.

        Args:
            image: uint8 [h w c].
            boxes: [m 4] xyxy in pixels, inside the image.
            seed: decides everything that is random.
        """
        changed, objects = self._picture(_One(image, boxes), Part(0, seed), self.policy, self.canvas)
        return changed, objects.boxes, objects.origins[:, 1]

    def sample(self, pictures: Pictures, epoch: int, index: int) -> Augmented:
        """Return the sample of an epoch that has this number: the picture of this number, and its partners'."""
        policy = self.policy.in_epoch(epoch, self.epochs)
        mix = draw_mix(policy, len(pictures), self.canvas, self.seed, epoch, index)
        if len(mix.parts) == 1:
            image, objects = self._picture(pictures, mix.parts[0][0], policy, self.canvas)
        else:
            image = np.empty((*self.canvas, len(self.fill)), np.uint8)
            seen = []
            for part, area in mix.parts:
                image[area.slices], found = self._picture(pictures, part, policy, (area.height, area.width))
                seen.append(found.moved(area.top, area.left))
            objects = Objects.joined(seen)
        if mix.through:
            behind, found = self._picture(pictures, mix.through, policy, self.canvas)
            image = cv2.addWeighted(image, 0.5, behind, 0.5, 0).reshape(image.shape)
            objects = Objects.joined([objects, found])
        if mix.pasted:
            image, objects = self._pasted(image, objects, pictures, mix.pasted, policy, mix.chosen)
        if mix.erased:
            cover = np.zeros(self.canvas, np.uint8)
            cover[mix.erased.slices] = 1
            image = image.copy()
            image[mix.erased.slices] = self.fill
            objects = objects.behind(cover, policy.min_visibility)
        return Augmented(image, objects.boxes, objects.origins)

    def _drawn(
        self, source: tuple[int, int], seed: int, policy: AugmentPolicy, canvas: tuple[int, int]
    ) -> tuple[Plan, randaugment.Operations]:
        operations = randaugment.NOTHING
        if policy.randaugment:
            rng = np.random.default_rng((seed, 1))
            operations = randaugment.draw_operations(policy, canvas, np.uint8, len(self.fill), rng)
        rng = np.random.default_rng((seed, 0))
        return Plan.draw(source, canvas, policy, rng, operations.warp, fitted=self.canvas), operations

    def _picture(
        self, pictures: Pictures, part: Part, policy: AugmentPolicy, canvas: tuple[int, int]
    ) -> tuple[Array, Objects]:
        """Return one picture on a canvas, or on an area of it, and the objects in sight."""
        plan, operations = self._drawn(pictures.size(part.index), part.seed, policy, canvas)
        pixels = pictures.pixels(part.index, plan.least)
        recolour = None
        if operations.colours or photometry.changes_colours(policy):
            recolour = partial(self._recoloured, policy=policy, colours=operations.colours, seed=part.seed)
        boxes = plan.boxes(pictures.boxes(part.index).reshape(-1, 4))
        objects = Objects.in_sight(boxes, part.index, canvas, policy.min_visibility)
        return plan.image(pixels, self.fill, recolour), objects

    def _recoloured(
        self, image: Array, *, policy: AugmentPolicy, colours: tuple[tuple[str, float], ...], seed: int
    ) -> Array:
        image = photometry.recoloured(image, policy, self._spread, np.random.default_rng((seed, 2)))
        return randaugment.recoloured(image, colours, self._spread)

    def _pasted(
        self, image: Array, objects: Objects, pictures: Pictures, part: Part, policy: AugmentPolicy, chosen: int
    ) -> tuple[Array, Objects]:
        """Paste half of the objects of another picture, along their polygons or else with their boxes."""
        other, found = self._picture(pictures, part, policy, self.canvas)
        plan = self._drawn(pictures.size(part.index), part.seed, policy, self.canvas)[0]
        taken = np.random.default_rng(chosen).random(len(found.boxes)) < 0.5
        cover = np.zeros(self.canvas, np.uint8)
        left = taken.copy()
        while left.any():
            for row in np.flatnonzero(left):
                outlines = pictures.polygons(part.index, int(found.origins[row, 1]))
                _draw(cover, found.boxes[row], [plan.points(outline) for outline in outlines])
            # what comes along in the boxes of others is an object too, and all of it is pasted
            left = ~taken & (found.covered(cover) >= max(policy.min_visibility, 1e-6))
            taken |= left
        taken &= found.covered(cover) > 0  # an outline may lie outside where its box does not
        image = np.where(cover[:, :, None], other, image)
        return image, Objects.joined([objects.behind(cover, policy.min_visibility), found.taken(taken)])


class _One:
    """A picture in memory."""

    def __init__(self, image: Array, boxes: Array):
        self.image, self.all_boxes = image, boxes

    def __len__(self) -> int:
        return 1

    def size(self, index: int) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def pixels(self, index: int, at_least: tuple[int, int]) -> Array:
        return self.image

    def boxes(self, index: int) -> Array:
        return self.all_boxes

    def polygons(self, index: int, row: int) -> Sequence[Array]:
        return ()


def _draw(cover: Array, box: Array, outlines: Sequence[Array]) -> None:
    """Mark an object in `cover`."""
    if outlines:
        cv2.fillPoly(cover, [(outline - 0.5).round().astype(np.int32) for outline in outlines], 1)
        return
    x1, y1 = np.floor(box[:2]).astype(int)
    x2, y2 = np.ceil(box[2:]).astype(int)
    cover[y1:y2, x1:x2] = 1
