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
from torch.utils.data import Dataset, Sampler

from densenet_suite.augment.masks import Cut, MaskAugment, cut_out
from densenet_suite.augment.segmentation import SegmentationAugment
from densenet_suite.errors import DataError
from densenet_suite.geometry import resize
from densenet_suite.preprocess import Normalization
from densenet_suite.rasters import open_raster, read_raster, with_bands
from densenet_suite.sampling import SampleKey, SequentialShard
from densenet_suite.segmentation.datasets import LabelledScene, SegmentationSet
from densenet_suite.segmentation.structures import IGNORE, SegmentationBatch
from densenet_suite.tiles import Window

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample:
    """One image, or a crop of one, ready to be put into a batch; see SegmentationBatch."""

    image: Shaped[Tensor, "c h w"]
    mask: UInt8[Tensor, "*k h2 w2"]
    index: int


class SegmentationSamples(Dataset[Sample]):
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
    ):
        self.source = source
        self.bands = bands
        self.normalization = normalization
        self.scale = scale
        self.augment = SegmentationAugment(augment, seed, epochs) if augment else None
        self.crops = crops

    def __len__(self) -> int:
        return len(self.source) * self.crops

    def __getitem__(self, key: SampleKey) -> Sample:
        index = key.index // self.crops
        if self.augment is None:
            image, mask = self._whole(self.source.scenes[index], self.mask(key.index))
        else:
            image, mask = self.augment.sample(self, key.epoch, key.index)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return Sample(pixels, torch.from_numpy(np.ascontiguousarray(mask)), index)

    def mask(self, index: int) -> Array:
        """Return the mask of the scene that a crop is of.

        Raises:
            DataError: it cannot be read, or has changed since.
        """
        return _read_mask(self.source.scenes[index // self.crops])

    def _whole(self, scene: LabelledScene, mask: Array) -> tuple[Array, Array]:
        values, missing, record = read_raster(scene.path, self.bands)
        _check_size((record.height, record.width), scene)
        image, mask = self._without_missing(values, missing, mask)
        seen = [max(1, round(side * self.scale)) for side in (scene.height, scene.width)]
        return resize(image, *seen), mask

    def window(self, index: int, mask: Array, cut: Cut) -> tuple[Array, Array]:
        """Return what is to be cut out of the image and of its mask; only that is read from a GeoTIFF.

        Raises:
            DataError: the image cannot be read, or has changed since.
        """
        scene = self.source.scenes[index // self.crops]
        planes = cut_out(mask.reshape(-1, *mask.shape[-2:]).transpose(1, 2, 0), cut, (IGNORE,))
        inside = Window(max(0, cut.top), max(0, cut.left), scene.height, scene.width)
        inside = inside._replace(
            height=min(scene.height, cut.top + cut.height) - inside.top,
            width=min(scene.width, cut.left + cut.width) - inside.left,
        )
        with open_raster(scene.path) as raster:
            _check_size((raster.record.height, raster.record.width), scene)
            values, missing = raster.read(inside)
            values = with_bands(values, self.bands, raster.record)
        around = cut._replace(top=cut.top - inside.top, left=cut.left - inside.left)
        image = cut_out(values, around, missing_pixel(self.normalization, values.dtype))
        labels = planes.transpose(2, 0, 1)
        if missing is not None:
            missing = cut_out(missing[:, :, None], around, (False,))[:, :, 0]
        return self._without_missing(image, missing, labels[0] if mask.ndim == 2 else labels)

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
        images=torch.stack([sample.image for sample in samples]),
        masks=torch.stack([sample.mask for sample in samples]),
        indices=torch.tensor([sample.index for sample in samples]),
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
