"""Where regions end: signed distances for the boundary loss, boundary IoU and the Hausdorff distance.

Distances are Euclidean, exact, in pixels and computed on the CPU, by OpenCV: several times faster than SciPy, which
the tests hold them against. Masks are those of one class in one image, True inside.
"""

import math
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray[Any, Any]
BAND = 0.02
PERCENTILE = 95


def signed_distance(inside: Bool[Array, "h w"], valid: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    """Return the distance of each pixel to the outline of a region, negative inside it.

    The outline runs between pixels, so the nearest on either side are half a pixel from it. Only between valid pixels
    is there an outline. Where all of them are inside, or none, each is as far away as can be: the image's diagonal.

    Reference: Kervadec et al., Boundary loss for highly unbalanced segmentation, arXiv:1812.07032, section 2.2.
    """
    region, rest = inside & valid, ~inside & valid
    if not region.any() or not rest.any():
        return np.full(inside.shape, diagonal(inside) * (-1 if region.any() else 1), np.float32)
    return np.where(inside, 0.5 - _distance_to(rest), _distance_to(region) - 0.5)


def diagonal(mask: Bool[Array, "h w"]) -> float:
    """Return the length of a mask's diagonal, in pixels."""
    return math.hypot(*mask.shape)


def boundary_overlap(found: Bool[Array, "h w"], truth: Bool[Array, "h w"]) -> tuple[int, int]:
    """Return the pixels that the inner bands of two regions have in common, and those of either.

    The band is as wide as 2 % of the image's diagonal; the edge of the image is an outline too.

    Reference: Cheng et al., Boundary IoU, arXiv:2103.16562, section 4, and its code.
    """
    width = max(1, round(BAND * diagonal(truth)))
    bands = [_inner_band(mask, width) for mask in (found, truth)]
    return int((bands[0] & bands[1]).sum()), int((bands[0] | bands[1]).sum())


def hausdorff(found: Bool[Array, "h w"], truth: Bool[Array, "h w"]) -> float | None:
    """Return the 95 % Hausdorff distance between the outlines of two regions, in pixels.

    The 95th percentile of the distances from the outline of one to that of the other, in the worse direction. Nothing
    found where nothing is has no distance: None. Where only one of the two is empty it is the image's diagonal.
    """
    if not found.any() and not truth.any():
        return None
    if not found.any() or not truth.any():
        return diagonal(truth)
    outlines = [_outline(mask) for mask in (found, truth)]
    directions = [_distance_to(there)[here] for here, there in (outlines, outlines[::-1])]
    return max(float(np.percentile(distances, PERCENTILE)) for distances in directions)


def _distance_to(region: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    distances = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV's last bit depends on its threads; up to 1600 pixels the whole number is found again whose root this is
    np.square(distances, out=distances)
    np.rint(distances, out=distances)
    return np.sqrt(distances, out=distances)


def _inner_band(mask: Bool[Array, "h w"], width: int) -> Bool[Array, "h w"]:
    """Return what `width` erosions by a 3 x 3 square take away."""
    padded = np.pad(mask, 1).astype(np.uint8)
    return mask & (cv2.distanceTransform(padded, cv2.DIST_C, cv2.DIST_MASK_3)[1:-1, 1:-1] <= width)


def _outline(mask: Bool[Array, "h w"]) -> Bool[Array, "h w"]:
    """Return the pixels of a region that have one of their four sides outside of it or of the image."""
    padded = np.pad(mask, 1)
    enclosed = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~enclosed
