"""Mean and deviation of the bands of images, over the pixels that have data, a part at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from densenet_suite.rasters import open_raster, with_bands
from densenet_suite.tiles import Window

Array = np.ndarray[Any, Any]
_PIXELS_AT_ONCE = 2**22


class Moments(NamedTuple):
    """Number of pixels, and the mean and the sum of squared deviations of each band, float64 [c]."""

    pixels: int
    mean: Array
    squares: Array

    @classmethod
    def none(cls, bands: int) -> Self:
        """Return those of no pixels."""
        return cls(0, np.zeros(bands), np.zeros(bands))

    @classmethod
    def of(cls, pixels: Array) -> Self:
        """Return those of pixels [n c]."""
        if len(pixels) == 0:
            return cls.none(pixels.shape[1])
        exact = pixels.astype(np.float64)
        mean = exact.mean(0)
        return cls(len(pixels), mean, ((exact - mean) ** 2).sum(0))

    def plus(self, other: Self) -> Self:
        """Join two parts (Chan et al. 1979, eq. 2.1), which unlike sums of squares loses no digits."""
        pixels = self.pixels + other.pixels
        if pixels == 0:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.pixels / pixels)
        squares = self.squares + other.squares + apart**2 * (self.pixels * other.pixels / pixels)
        return type(self)(pixels, mean, squares)


def image_moments(path: Path, bands: int) -> Moments:
    """Return the moments of a file's pixels that have data.

    Args:
        path: of the file.
        bands: what it is read as; see `with_bands`.

    Raises:
        DataError: it cannot be read.
    """
    moments = Moments.none(bands)
    with open_raster(path) as raster:
        for window in _stripes(raster.record.height, raster.record.width):
            values, missing = raster.read(window)
            pixels = with_bands(values, bands, raster.record).reshape(-1, bands)
            if missing is not None:
                pixels = pixels[~missing.reshape(-1)]
            moments = moments.plus(Moments.of(pixels))
    return moments


def _stripes(height: int, width: int) -> Iterator[Window]:
    """Cut an image into whole rows, of not too many pixels at once."""
    rows = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, rows):
        yield Window(top, 0, min(rows, height - top), width)
