"""Labelled images to training samples and batches: reading, changes, letterbox, collation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from densenet_suite.augment import AugmentPolicy
from densenet_suite.augment.detection import DetectionAugment
from densenet_suite.batch import image_tensor, stack_images
from densenet_suite.damaged import DamagedImages
from densenet_suite.detection.datasets import DetectionSet, LabelledImage
from densenet_suite.detection.structures import IGNORE, DetectionBatch
from densenet_suite.geometry import Letterbox
from densenet_suite.images import read_cached
from densenet_suite.loading import AUGMENTING, READING, Samples
from densenet_suite.pixel_cache import PixelCache
from densenet_suite.sampling import SampleKey

Array = np.ndarray[Any, Any]
_KEPT = 64  # pictures


@dataclass(frozen=True)
class Sample:
    """One image, ready to be put into a batch; see DetectionBatch."""

    image: Shaped[Tensor, "c h w"]
    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    index: int
    size: tuple[int, int]
    scale: tuple[float, float]


class DetectionSamples(Samples[Sample]):
    """The images of a split, as the network sees them.

    Args:
        source: the split.
        canvas: (height, width) of the network's input.
        bands: 3, or 1 for grey.
        fill: pixel of the padding.
        policy: random changes; None for evaluation.
        seed: of the random changes.
        epochs: of the run, of which the last ones may be plain; None for no end.
        cache: of decoded pictures.
        damaged: takes down pictures that cannot be decoded, so that they are left out; None to stop at the first.
    """

    def __init__(
        self,
        source: DetectionSet,
        canvas: tuple[int, int],
        bands: int,
        fill: Sequence[int],
        policy: AugmentPolicy | None,
        seed: int,
        epochs: int | None = None,
        *,
        cache: PixelCache | None = None,
        damaged: DamagedImages | None = None,
    ):
        super().__init__(source.paths, seed, trains=policy is not None, damaged=damaged)
        self.source = source
        self.canvas = canvas
        self.bands = bands
        self.fill = tuple(fill)
        self.augment = DetectionAugment(policy, canvas, fill, seed, epochs) if policy else None
        self.cache = cache
        self._latest: dict[int, _Trained] = {}

    def __len__(self) -> int:
        return len(self.source)

    def image_of(self, index: int) -> int:
        """Return the number itself: each picture is one sample."""
        return index

    def make(self, key: SampleKey) -> Sample:
        """Make the sample of a picture, changed for training or as it is."""
        if self.augment is not None:
            return self._sample(key.index, *self.augment.sample(self, key.epoch, key.index))
        return self._whole(key.index, self._letterbox(key.index).image(self.pixels(key.index), self.fill))

    def make_empty(self, key: SampleKey) -> Sample:
        """Make the sample of a picture that cannot be decoded: padding, on which its objects will be missed."""
        return self._whole(key.index, np.full((*self.canvas, self.bands), self.fill, np.uint8))

    def _whole(self, index: int, pixels: Array) -> Sample:
        boxes = self.boxes(index)
        origins = np.stack([np.full(len(boxes), index), np.arange(len(boxes))], 1)
        return self._sample(index, pixels, self._letterbox(index).boxes(boxes), origins)

    def _letterbox(self, index: int) -> Letterbox:
        return Letterbox.fit(self.size(index), self.canvas)

    def _sample(self, index: int, pixels: Array, boxes: Array, origins: Array) -> Sample:
        return Sample(
            image=image_tensor(np.ascontiguousarray(pixels)),
            boxes=torch.from_numpy(boxes.astype(np.float32)),
            labels=torch.from_numpy(self._labels(origins)),
            index=index,
            size=self.size(index),
            scale=self._letterbox(index).scale,
        )

    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a file."""
        entry = self.source.images[index]
        return entry.height, entry.width

    def pixels(self, index: int, at_least: tuple[int, int] | None = None) -> Array:
        """Return a picture, uint8 [h w c], of the file's size, or smaller but not below `at_least`; not to be changed.

        Raises:
            DataError: it cannot be read, or has changed since.
        """
        self.at_work(READING, index)
        pixels = read_cached(self.cache, self.source.images[index].path, self.bands, self.size(index), at_least)
        self.at_work(AUGMENTING, index)
        return pixels

    def boxes(self, index: int) -> Array:
        """Return the boxes that are trained on, [n 4] in pixels of the file, clipped to the picture."""
        return self._trained(index).boxes

    def polygons(self, index: int, row: int) -> list[Array]:
        """Return the outlines of one of these objects, [p 2] in pixels of the file; none where it has no polygons."""
        outlines = self.source.images[index].objects.segmentations[self._trained(index).rows[row]]
        if not isinstance(outlines, list):
            return []
        return [np.asarray(outline, np.float64).reshape(-1, 2) for outline in outlines if len(outline) >= 6]

    def _labels(self, origins: Array) -> Array:
        """Return the label of each object, which is looked up where it comes from."""
        labels = np.empty(len(origins), np.int64)
        for index in set(origins[:, 0].tolist()):
            rows = origins[:, 0] == index
            labels[rows] = self._trained(index).labels[origins[rows, 1]]
        return labels

    def _trained(self, index: int) -> "_Trained":
        """Return the objects of a picture that are trained on; those of the few pictures of a sample are kept."""
        if index not in self._latest:
            if len(self._latest) >= _KEPT:
                self._latest.clear()
            self._latest[index] = _Trained.of(self.source.images[index])
        return self._latest[index]


class _Trained(NamedTuple):
    """The objects that are trained on, all but crowd regions and what lies outside: their rows, boxes and labels."""

    rows: Array
    boxes: Array
    labels: Array

    @classmethod
    def of(cls, entry: LabelledImage) -> Self:
        boxes = entry.objects.clipped(entry.height, entry.width)
        sides = boxes[:, 2:] - boxes[:, :2]
        rows = np.flatnonzero(~entry.objects.crowd & (sides > 0).all(1))
        return cls(rows, boxes[rows], entry.objects.labels[rows])


def noise(images: int, bands: int, size: tuple[int, int], objects: int, classes: int) -> DetectionBatch:
    """Make a batch in which nothing can be seen, the same each time, to find out what a step of its size takes.

    Args:
        images: how many.
        bands: of each.
        size: (height, width) of each.
        objects: in each.
        classes: that there are.
    """
    height, width = size
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (width, height), (images, objects, 2, 2))
    boxes = np.concatenate([corners.min(2), corners.max(2)], 2)
    pixels = rng.integers(0, 256, (images, height, width, bands), np.uint8)
    return DetectionBatch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        labels=torch.from_numpy(rng.integers(0, classes, (images, objects))),
        indices=torch.arange(images),
        sizes=torch.tensor(size).expand(images, 2),
        scales=torch.ones(images, 2),
    )


def collate(samples: Sequence[Sample]) -> DetectionBatch:
    """Put samples into a batch, padded to the largest number of objects, which has no limit."""
    most = max(len(sample.labels) for sample in samples)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), IGNORE)
    for i, sample in enumerate(samples):
        boxes[i, : len(sample.boxes)] = sample.boxes
        labels[i, : len(sample.labels)] = sample.labels
    return DetectionBatch(
        images=stack_images([sample.image for sample in samples]),
        boxes=boxes,
        labels=labels,
        indices=torch.from_numpy(np.array([sample.index for sample in samples], np.int64)),
        sizes=torch.from_numpy(np.array([sample.size for sample in samples], np.int64)),
        scales=torch.from_numpy(np.array([sample.scale for sample in samples], np.float32)),
    )
