"""What is done to arrays of pixels [h w c] of any number of bands: resized, turned, padded, cut; OpenCV does it.

OpenCV leaves out the axis of a single band and fills borders of four at the most; here neither is seen.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

UNLABELLED = 255  # in masks
_TURNS = (None, cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)


def shrink_or_enlarge(image: Array, height: int, width: int) -> Array:
    """Resize [h w c] for training: bilinearly, after a blur where it shrinks, so that no pixel is skipped.

    It takes a third of the time of `geometry.resize`, which evaluation uses, and up to a shrinkage of two it is within
    a grey level or two of it: a Gaussian of half of sqrt(shrinkage^2 - 1) pixels makes the two pixels that OpenCV mixes
    hold what the wider filter sees. What shrinks more is averaged over areas.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinkage = (image.shape[0] / height, image.shape[1] / width)
    if max(shrinkage) > 2:
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return resized.reshape(height, width, -1)
    down, across = (0.5 * (max(1.0, times) ** 2 - 1) ** 0.5 for times in shrinkage)
    if down > 0.15 or across > 0.15:
        image = cv2.GaussianBlur(image, (3, 3), max(across, 1e-3), sigmaY=max(down, 1e-3))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, -1)


def turned(image: Array, quarters: int) -> Array:
    """Turn [h w c] by quarters, counter-clockwise as `np.rot90` does."""
    code = _TURNS[quarters % 4]
    if code is None:
        return image
    if image.shape[2] > 4:  # more OpenCV does not turn
        return np.ascontiguousarray(np.rot90(image, quarters))
    result = cv2.rotate(image, code)
    return result.reshape(*result.shape[:2], -1)


def mirrored(image: Array, vertical: bool, horizontal: bool, *, in_place: bool = False) -> Array:
    """Mirror [h w c] top to bottom, left to right, or both; `in_place` saves a copy of what is not needed any more."""
    if not vertical and not horizontal:
        return image
    how = -1 if vertical and horizontal else 0 if vertical else 1
    return cv2.flip(image, how, dst=image if in_place else None).reshape(image.shape)


def padded(image: Array, top: int, left: int, canvas: tuple[int, int], fill: Sequence[float]) -> Array:
    """Put [h w c] on a canvas of one colour."""
    height, width, bands = image.shape
    if (height, width) == canvas:
        return image
    if bands <= 4:
        around = (top, canvas[0] - top - height, left, canvas[1] - left - width)
        result = cv2.copyMakeBorder(image, *around, cv2.BORDER_CONSTANT, value=tuple(float(part) for part in fill))
        return result.reshape(*canvas, bands)
    result = np.empty((*canvas, bands), image.dtype)
    result[:] = np.asarray(fill, image.dtype)
    result[top : top + height, left : left + width] = image
    return result


def blurred(image: Array, deviation: float) -> Array:
    """Blur [h w c] by a Gaussian of so many pixels; nothing is clipped."""
    return cv2.GaussianBlur(image, (0, 0), deviation).reshape(image.shape)
