"""Labelled scenes to training samples and batches: reading, crops, changes, collation.

Training sees crops, of which no more than their window is read where the file allows it. Evaluation sees whole images,
resized for the network, with masks in the pixels of the files, so that scores are those of the files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor
from torch.utils.data import Sampler, default_collate

from densenet_suite.augment.masks import Cut, MaskAugment, cut_out
from densenet_suite.augment.segmentation import SegmentationAugment
from densenet_suite.batch import image_tensor, stack_images
from densenet_suite.damaged import DamagedImages
from densenet_suite.errors import DataError
from densenet_suite.geometry import resize
from densenet_suite.image_opening import DamagedImageError
from densenet_suite.images import read_cached
from densenet_suite.loading import AUGMENTING, READING, READING_MASK, Samples
from densenet_suite.pixel_cache import PixelCache
from densenet_suite.preprocess import Normalization
from densenet_suite.rasters import Pixels, is_raster, open_raster, read_raster, with_bands
from densenet_suite.sampling import SampleKey, SequentialShard
from densenet_suite.segmentation.datasets import LabelledScene, SegmentationSet
from densenet_suite.segmentation.masks import FileMask
from densenet_suite.segmentation.structures import IGNORE, MaskClasses, SegmentationBatch
from densenet_suite.tiles import Window

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample:
    """One image, or a crop of one, ready to be put into a batch; see SegmentationBatch."""

    image: Shaped[Tensor, "c h w"]
    mask: UInt8[Tensor, "*k h2 w2"]
    index: int


class SegmentationSamples(Samples[Sample]):
    """The scenes of a split, as the network sees them.

    Pixels without data are the mean, which is zero to the network, and 255 in the mask.

    Args:
        source: the split.
        bands: of the images; grey is repeated for 3, and 8-bit colour becomes grey for 1.
        normalization: of the network.
        scale: pixels of the network per pixel of the file.
        augment: crops and changes them; None for whole images, for evaluation.
        crops: of each scene in an epoch.
        seed: of what is random.
        epochs: of the run, of which the last ones may be plain; None for no end.
        cache: of decoded pictures and masks.
        damaged: takes down pictures that cannot be decoded, so that they are left out; None to stop at the first.
    """

    def __init__(
        self,
        source: SegmentationSet,
        bands: int,
        normalization: Normalization,
        scale: float = 1.0,
        augment: MaskAugment | None = None,
        crops: int = 1,
        seed: int = 0,
        epochs: int | None = None,
        *,
        cache: PixelCache | None = None,
        damaged: DamagedImages | None = None,
    ):
        super().__init__(source.paths, seed, trains=augment is not None, damaged=damaged)
        self.source = source
        self.bands = bands
        self.normalization = normalization
        self.scale = scale
        self.augment = SegmentationAugment(augment, seed, epochs) if augment else None
        self.crops = crops
        self.cache = cache

    def __len__(self) -> int:
        return len(self.source) * self.crops

    def image_of(self, index: int) -> int:
        """Return the scene that a crop is of."""
        return index // self.crops

    def make(self, key: SampleKey) -> Sample:
        """Make a crop of a scene, changed for training, or the whole of it."""
        index = self.image_of(key.index)
        if self.augment is None:
            return self._sample(index, *self._whole(index, self.mask(key.index)))
        return self._sample(index, *self.augment.sample(self, key.epoch, key.index))

    def make_empty(self, key: SampleKey) -> Sample:
        """Make the sample of a picture that cannot be decoded: nothing, with the mask of what should be there."""
        index = self.image_of(key.index)
        scene = self.source.scenes[index]
        dtype = np.uint8 if scene.dtype == "uint8" else np.float32
        fill = np.array(missing_pixel(self.normalization, dtype), dtype)
        return self._sample(index, np.broadcast_to(fill, (*self._seen(scene), self.bands)), self.mask(key.index))

    def mask(self, index: int) -> Array:
        """Return the mask of the scene that a crop is of.

        Raises:
            DataError: it cannot be read, or has changed since.
        """
        self.at_work(READING_MASK, self.image_of(index))
        scene = self.source.scenes[self.image_of(index)]
        try:
            if self.cache is not None and isinstance(scene.mask, FileMask) and len(scene.mask.paths) == 1:
                mask = self.cache.get(scene.mask.paths[0], f"mask by {scene.mask.codec}", lambda: _read_mask(scene))
            else:
                mask = _read_mask(scene)
        except DamagedImageError as error:
            raise DataError(error.problems) from error  # only pictures are left out: labels have to be sound
        self.at_work(AUGMENTING, self.image_of(index))
        return mask

    def _sample(self, index: int, image: Array, mask: Array) -> Sample:
        return Sample(image_tensor(np.ascontiguousarray(image)), torch.from_numpy(np.array(mask, order="C")), index)

    def _whole(self, index: int, mask: Array) -> tuple[Array, Array]:
        scene = self.source.scenes[index]
        self.at_work(READING, index)
        values, missing, record = read_raster(scene.path, self.bands)
        _check_size((record.height, record.width), scene)
        image, mask = self._without_missing(values, missing, mask)
        return resize(image, *self._seen(scene)), mask

    def _seen(self, scene: LabelledScene) -> tuple[int, int]:
        """Return (height, width) of a whole image as the network sees it."""
        return max(1, round(scene.height * self.scale)), max(1, round(scene.width * self.scale))

    def window(self, index: int, mask: Array, cut: Cut) -> tuple[Array, Array]:
        """Return what is to be cut out of the image and of its mask; only that is read from a GeoTIFF.

        Raises:
            DataError: the image cannot be read, or has changed since.
        """
        scene = self.source.scenes[self.image_of(index)]
        self.at_work(READING, self.image_of(index))
        planes = cut_out(mask.reshape(-1, *mask.shape[-2:]).transpose(1, 2, 0), cut, (IGNORE,))
        inside = Window(max(0, cut.top), max(0, cut.left), scene.height, scene.width)
        inside = inside._replace(
            height=min(scene.height, cut.top + cut.height) - inside.top,
            width=min(scene.width, cut.left + cut.width) - inside.left,
        )
        values, missing = self._read(scene, inside)
        self.at_work(AUGMENTING, self.image_of(index))
        around = cut._replace(top=cut.top - inside.top, left=cut.left - inside.left)
        image = cut_out(values, around, missing_pixel(self.normalization, values.dtype))
        labels = planes.transpose(2, 0, 1)
        if missing is not None:
            missing = cut_out(missing[:, :, None], around, (False,))[:, :, 0]
        return self._without_missing(image, missing, labels[0] if mask.ndim == 2 else labels)

    def _read(self, scene: LabelledScene, window: Window) -> Pixels:
        if self.cache is not None and scene.dtype == "uint8" and not is_raster(scene.path):
            pixels = read_cached(self.cache, scene.path, self.bands, (scene.height, scene.width))
            rows, columns = (
                slice(window.top, window.top + window.height),
                slice(window.left, window.left + window.width),
            )
            return Pixels(pixels[rows, columns], None)
        with open_raster(scene.path) as raster:
            _check_size((raster.record.height, raster.record.width), scene)
            values, missing = raster.read(window)
            return Pixels(with_bands(values, self.bands, raster.record), missing)

    def _without_missing(self, image: Array, missing: Array | None, mask: Array) -> tuple[Array, Array]:
        if missing is None or not missing.any():
            return image, mask
        fill = np.array(missing_pixel(self.normalization, image.dtype), image.dtype)
        return np.where(missing[:, :, None], fill, image), np.where(missing, np.uint8(IGNORE), mask)


class SameSizeBatches(Sampler[list[SampleKey]]):
    """Whole images in their order, a batch at a time: neighbours of the same size together, up to `batch` of them."""

    def __init__(self, source: SegmentationSet, order: SequentialShard, batch: int):
        self.batches: list[list[SampleKey]] = []
        last = None
        for key in order:
            size = (source.scenes[key.index].height, source.scenes[key.index].width)
            if size != last or len(self.batches[-1]) == batch:
                self.batches.append([])
            self.batches[-1].append(key)
            last = size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self.batches)


def collate(samples: Sequence[Sample]) -> SegmentationBatch:
    """Put samples of one size into a batch."""
    return SegmentationBatch(
        images=stack_images([sample.image for sample in samples]),
        masks=default_collate([sample.mask for sample in samples]),
        indices=torch.tensor([sample.index for sample in samples]),
    )


def noise(
    images: int, bands: int, size: tuple[int, int], classes: MaskClasses, value_range: float, dtype: Any
) -> SegmentationBatch:
    """Make a batch in which nothing can be seen, the same each time, to find out what a step of its size takes.

    Args:
        images: how many.
        bands: of each.
        size: (height, width) of each.
        classes: that there are.
        value_range: the largest pixel value.
        dtype: of the pixels.
    """
    rng = np.random.default_rng(0)
    pixels = (rng.random((images, *size, bands), np.float32) * value_range).astype(dtype)
    if classes.multilabel:
        masks = rng.integers(0, 2, (images, len(classes), *size), np.uint8)
    else:
        masks = rng.integers(0, len(classes), (images, *size), np.uint8)
    return SegmentationBatch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        masks=torch.from_numpy(masks),
        indices=torch.arange(images),
    )


def missing_pixel(normalization: Normalization, dtype: Any) -> tuple[float, ...]:
    """Return the pixel of what is missing or outside: what the network takes for nothing, rounded for 8 bits."""
    if dtype == np.uint8 or normalization.padding is not None:
        return normalization.fill
    return tuple(mean * normalization.value_range for mean in normalization.mean)


def _read_mask(scene: LabelledScene) -> Array:
    mask = scene.mask.decode().mask
    if mask.shape[-2:] != (scene.height, scene.width):
        raise DataError("the mask has another size than when training began", where=scene.mask.place)
    return mask


def _check_size(size: tuple[int, int], scene: LabelledScene) -> None:
    if size != (scene.height, scene.width):
        raise DataError("the picture has another size than when training began", where=str(scene.path))
