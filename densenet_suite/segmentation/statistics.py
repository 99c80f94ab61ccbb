"""What the training pixels are like: the normalisation of data that no published weights know, and class weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densenet_suite.errors import DataError
from densenet_suite.preprocess import Normalization
from densenet_suite.rasters import open_raster, with_bands
from densenet_suite.segmentation.datasets import LabelledScene, SegmentationSet
from densenet_suite.tiles import Window

Array = np.ndarray[Any, Any]
_READERS = 4
_PIXELS_AT_ONCE = 2**22


class _Moments(NamedTuple):
    """Number of pixels, and the mean and the sum of squared deviations of each band, float64 [c]."""

    pixels: int
    mean: Array
    squares: Array

    def plus(self, other: "_Moments") -> "_Moments":
        """Join two parts (Chan et al. 1979, eq. 2.1), which unlike sums of squares loses no digits."""
        pixels = self.pixels + other.pixels
        if pixels == 0:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.pixels / pixels)
        squares = self.squares + other.squares + apart**2 * (self.pixels * other.pixels / pixels)
        return _Moments(pixels, mean, squares)


def normalization_for(train: SegmentationSet, bands: int) -> Normalization | None:
    """Return the statistics that a network for these images is to be normalised with.

    8-bit colours keep those that the weights were trained with, and None says so. Any other images, of other depths,
    other bands or grey, have their own.

    Raises:
        DataError: as `statistics`.
    """
    eight_bits = all(scene.dtype == "uint8" for scene in train.scenes)
    return None if eight_bits and bands == 3 else statistics(train, bands)


def statistics(train: SegmentationSet, bands: int) -> Normalization:
    """Return mean and standard deviation of each band over all pixels with data, by reading every image once.

    Of 8 bits they are in shares of 255; of any other depth in the unit of the files, with a value range of 1. A band
    that is the same everywhere gets a deviation of 1, and a place in the findings.

    Args:
        train: the training split.
        bands: what the images are read as.

    Raises:
        DataError: an image cannot be read, or there is no pixel with data.
    """
    moments = _Moments(0, np.zeros(bands), np.zeros(bands))
    with ThreadPoolExecutor(_READERS) as pool:
        for part in pool.map(lambda scene: _of_scene(scene, bands), train.scenes):
            moments = moments.plus(part)
    if moments.pixels == 0:
        raise DataError("no pixel of the training images has data", where=str(train.source))
    deviation = np.sqrt(moments.squares / moments.pixels)
    constant = deviation <= 1e-7 * np.abs(moments.mean)  # float32 tells nothing finer apart
    for i in np.flatnonzero(constant):
        train.findings.warning(
            "band-constant", f"band {i + 1} is {moments.mean[i]:g} in every pixel of the training images"
        )
    deviation[constant] = 1
    unit = 255.0 if all(scene.dtype == "uint8" for scene in train.scenes) else 1.0
    return Normalization(tuple((moments.mean / unit).tolist()), tuple((deviation / unit).tolist()), unit)


def class_weights(train: SegmentationSet) -> Float[Tensor, " k"]:
    """Return how much a pixel of each class is to count, so that rare classes are learned: median frequency balancing.

    The frequency of a class is its share of the known pixels of those images that have it; its weight is the median of
    all frequencies, divided by its own. A class without any pixel weighs 1.

    Reference: Eigen and Fergus, arXiv:1411.4734; as used in SegNet, arXiv:1511.00561, for CamVid.
    """
    pixels = train.pixel_counts.astype(np.float64)
    known = (train.known_counts * (train.pixel_counts > 0)).sum(0)
    present = known > 0
    weights = np.ones(len(train.classes))
    if present.any():
        frequency = pixels.sum(0)[present] / known[present]
        weights[present] = np.median(frequency) / frequency
    return torch.from_numpy(weights).float()


def _of_scene(scene: LabelledScene, bands: int) -> _Moments:
    moments = _Moments(0, np.zeros(bands), np.zeros(bands))
    with open_raster(scene.path) as raster:
        for window in _stripes(scene.height, scene.width):
            values, missing = raster.read(window)
            pixels = with_bands(values, bands, raster.record).reshape(-1, bands)
            if missing is not None:
                pixels = pixels[~missing.reshape(-1)]
            moments = moments.plus(_of_pixels(pixels))
    return moments


def _of_pixels(pixels: Array) -> _Moments:
    """Return the moments of pixels [n c]."""
    if len(pixels) == 0:
        return _Moments(0, np.zeros(pixels.shape[1]), np.zeros(pixels.shape[1]))
    exact = pixels.astype(np.float64)
    mean = exact.mean(0)
    return _Moments(len(pixels), mean, ((exact - mean) ** 2).sum(0))


def _stripes(height: int, width: int) -> Iterator[Window]:
    """Cut a scene into whole rows, of not too many pixels at once."""
    rows = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, rows):
        yield Window(top, 0, min(rows, height - top), width)
