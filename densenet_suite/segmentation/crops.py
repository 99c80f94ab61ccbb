"""Where a crop for training is cut, so that rare classes are seen.

Half of the crops, say, lie around a pixel of a class that is drawn first, each class of the mask as likely as another,
the others anywhere (after Isensee et al., nnU-Net, arXiv:1904.08128, which oversamples foreground in a third of them).
"""

from typing import Any

import numpy as np

from densenet_suite.segmentation.structures import IGNORE

Array = np.ndarray[Any, Any]


def choose_crop(mask: Array, size: tuple[int, int], rng: np.random.Generator, share_by_class: float) -> tuple[int, int]:
    """Return (top, left) of a crop that holds as much of the image as fits.

    Where the image is smaller than the crop, all of it is inside, at a random place: `top` or `left` are 0 or negative
    then, and the crop is to be padded.

    Args:
        mask: uint8 [h w] of classes, or [k h w] of 0, 1 and 255 where classes overlap.
        size: (height, width) of the crop.
        rng: what is random.
        share_by_class: how often the crop is centred, as far as the border lets it, on a pixel of a class. Where
            no pixel has a class it lies anywhere.
    """
    bounds = [sorted((0, inside - side)) for inside, side in zip(mask.shape[-2:], size, strict=True)]
    if rng.random() < share_by_class and (pixel := _pixel_of_a_class(mask, rng)) is not None:
        centred = (pixel[0] - size[0] // 2, pixel[1] - size[1] // 2)
        top, left = (min(max(place, low), high) for place, (low, high) in zip(centred, bounds, strict=True))
        return top, left
    top, left = (int(rng.integers(low, high + 1)) for low, high in bounds)
    return top, left


def _pixel_of_a_class(mask: Array, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return (row, column) of a pixel: a class that the mask has, then one of its pixels, each as likely."""
    if mask.ndim == 2:
        present = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=IGNORE + 1)[:IGNORE])
    else:
        present = np.flatnonzero((mask == 1).any((1, 2)))
    if len(present) == 0:
        return None
    chosen = int(rng.choice(present))
    pixels = np.flatnonzero(mask == chosen if mask.ndim == 2 else mask[chosen] == 1)
    row, column = divmod(int(rng.choice(pixels)), mask.shape[-1])
    return row, column
