"""What the training pixels are like: the normalisation of data that no published weights know, and class weights."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from densenet_suite.errors import DataError
from densenet_suite.moments import Moments, image_moments
from densenet_suite.preprocess import Normalization
from densenet_suite.segmentation.datasets import SegmentationSet

_READERS = 4


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
    moments = Moments.none(bands)
    with ThreadPoolExecutor(_READERS) as pool:
        for part in pool.map(lambda scene: image_moments(scene.path, bands), train.scenes):
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
