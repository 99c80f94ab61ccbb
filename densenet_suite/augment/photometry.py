"""Colours: one matrix and one table for 8-bit pictures, the bands' own unit for all others.

Brightness, contrast and saturation are those of torchvision and albumentations (`adjust_brightness` and so on). All
three, and the hue, are affine in (red, green, blue): so they are one product and one pass over the pixels, and nothing
is clipped or rounded between them. The hue turns about the grey axis: grey stays grey, and a third of the circle takes
red to green, as in HSV; in between it keeps the sum of the three, where HSV keeps the largest.
"""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from densenet_suite.augment import library
from densenet_suite.augment.pixels import blurred
from densenet_suite.augment.policy import AugmentPolicy

Array = np.ndarray[Any, Any]

CHANCE = 0.8  # of a change of colours, of 8-bit grey or colour
_RARELY = 0.5  # of blur, noise and compression, each
_AFFINE = ("brightness", "contrast", "saturation", "hue")
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

_SAME = {bands: np.eye(bands) for bands in (1, 3)}
_ACROSS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def changes_colours(policy: AugmentPolicy) -> bool:
    """Say whether a policy changes any."""
    return any(getattr(policy, key) for key in ("gamma", *_AFFINE, "blur", "noise", "compression"))


def recoloured(image: Array, policy: AugmentPolicy, spread: Array, rng: np.random.Generator) -> Array:
    """Return [h w c] in other colours, dtype as it was; 8 bits stay in their range, and floats have none.

    Args:
        image: uint8, or float32 in any unit.
        policy: how much may change.
        spread: deviation of each band, in the unit of the pixels.
        rng: what is random.
    """
    eight = image.dtype == np.uint8
    if policy.gamma and eight:
        limit = math.log1p(policy.gamma)
        table = 255 * (np.arange(256) / 255) ** math.exp(rng.uniform(-limit, limit))
        image = cv2.LUT(image, table.round().astype(np.uint8)).reshape(image.shape)
    limits = {key: getattr(policy, key) for key in _AFFINE}
    if any(limits.values()) and (not _is_photo(image) or rng.random() < CHANCE):
        image = shifted(image, {key: rng.uniform(-limit, limit) for key, limit in limits.items()}, spread)
    if policy.blur and rng.random() < _RARELY:
        image = blurred(image, max(1e-3, rng.uniform(0, policy.blur)))
    if policy.noise and rng.random() < _RARELY:
        deviation = (rng.uniform(0, policy.noise) * spread).astype(np.float32)
        noisy = image + rng.standard_normal(image.shape, np.float32) * deviation
        image = noisy.round().clip(0, 255).astype(np.uint8) if eight else noisy
    if policy.compression and rng.random() < _RARELY:
        image = library.changed(library.compression(rng.uniform(0, policy.compression)), image)
    return image


def shifted(image: Array, changes: Mapping[str, float], spread: Array) -> Array:
    """Return [h w c] with other brightness, contrast, saturation and hue; changes are signed shares.

    Of 8-bit grey or colour, brightness is a factor, and contrast is about the mean grey. Of all else, brightness is a
    shift by a share of the bands' deviations, contrast is about each band's mean, and the other two do nothing.
    """
    if _is_photo(image):
        return _photo_shifted(image, changes)
    contrast = 1 + changes.get("contrast", 0.0)
    shift = changes.get("brightness", 0.0) * spread
    means = image.mean((0, 1), dtype=np.float64).astype(np.float32)
    changed = image * np.float32(contrast) + (means * np.float32(1 - contrast) + shift.astype(np.float32))
    return changed.round().clip(0, 255).astype(np.uint8) if image.dtype == np.uint8 else changed


def _is_photo(image: Array) -> bool:
    return image.dtype == np.uint8 and image.shape[2] in (1, 3)


def _photo_shifted(image: Array, changes: Mapping[str, float]) -> Array:
    bands = image.shape[2]
    grey = _GREY if bands == 3 else np.ones(1)
    matrix = _SAME[bands] * (1 + changes.get("brightness", 0.0))
    offset = 0.0
    if contrast := changes.get("contrast", 0.0):
        mean = float(grey @ matrix @ np.array(cv2.mean(image)[:bands]))
        matrix, offset = matrix * (1 + contrast), -contrast * mean
    if bands == 3 and (saturation := changes.get("saturation", 0.0)):
        matrix = ((1 + saturation) * _SAME[3] - saturation * grey) @ matrix
    if bands == 3 and (hue := changes.get("hue", 0.0)):
        matrix = _about_grey(hue) @ matrix
    affine = np.empty((bands, bands + 1), np.float32)
    affine[:, :bands], affine[:, bands] = matrix, offset
    return cv2.transform(image, affine).reshape(image.shape)


def _about_grey(share: float) -> Array:
    """Return the turn [3 3] about (1, 1, 1) that takes red towards green, by a share of the whole turn (Rodrigues)."""
    angle = 2 * math.pi * share
    return math.cos(angle) * _SAME[3] + math.sin(angle) / math.sqrt(3) * _ACROSS + (1 - math.cos(angle)) / 3
