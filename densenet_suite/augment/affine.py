"""Straight changes of shape as one matrix [3 3], of (x, y, 1) in pixels, where the corner of an image is (0, 0).

The centre of its first pixel is (0.5, 0.5) then, as for boxes. OpenCV counts from that centre, and what is said to it
is shifted here.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]


def scaling(x: float, y: float, dx: float = 0.0, dy: float = 0.0) -> Array:
    """Scale, then shift."""
    return np.array([[x, 0, dx], [0, y, dy], [0, 0, 1]], np.float64)


def about(matrix: Array, size: Sequence[float]) -> Array:
    """Let a change leave the middle of (height, width) where it is."""
    height, width = size
    return scaling(1, 1, width / 2, height / 2) @ matrix @ scaling(1, 1, -width / 2, -height / 2)


def rotation(degrees: float) -> Array:
    """Turn counter-clockwise, as it looks in an image."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float64)


def shearing(x: float, y: float) -> Array:
    """Shift each row by a share of its height, and each column likewise."""
    return np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]], np.float64)


def turning(quarters: int, size: Sequence[float]) -> Array:
    """Turn an image of (height, width) by quarters, counter-clockwise, into one whose corner is (0, 0) again."""
    height, width = size
    return np.array(
        [
            [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[0, 1, 0], [-1, 0, width], [0, 0, 1]],
            [[-1, 0, width], [0, -1, height], [0, 0, 1]],
            [[0, -1, height], [1, 0, 0], [0, 0, 1]],
        ],
        np.float64,
    )[quarters % 4]


def mirroring(vertical: bool, horizontal: bool, size: Sequence[float]) -> Array:
    """Mirror an image of (height, width) top to bottom, left to right, or both."""
    return scaling(
        -1 if horizontal else 1, -1 if vertical else 1, size[1] if horizontal else 0, size[0] if vertical else 0
    )


def moved(points: Array, matrix: Array) -> Array:
    """Map points [... 2], (x, y)."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def moved_boxes(boxes: Array, matrix: Array) -> Array:
    """Return the boxes [n 4], xyxy, around the moved corners of boxes."""
    corners = moved(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)
    return np.concatenate([corners.min(1), corners.max(1)], 1)


def warped(image: Array, matrix: Array, canvas: tuple[int, int], fill: Sequence[float], *, nearest: bool) -> Array:
    """Move the pixels [h w c] onto a canvas of (height, width); what comes from outside of them is `fill`."""
    shifted = scaling(1, 1, -0.5, -0.5) @ matrix @ scaling(1, 1, 0.5, 0.5)
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    parts = []
    for first in range(0, image.shape[2], 4):  # OpenCV's border has four bands at the most
        bands = np.ascontiguousarray(image[..., first : first + 4])
        border = [float(part) for part in fill[first : first + 4]]
        part = cv2.warpAffine(
            bands, shifted[:2], canvas[::-1], flags=how, borderMode=cv2.BORDER_CONSTANT, borderValue=border
        )
        parts.append(part.reshape(*canvas, -1))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 2)
