"""RandAugment (Cubuk et al., arXiv:1909.13719) in a form that is safe for boxes and masks.

n operations are drawn, each as likely, and each goes as far as the magnitude says, to a random side. Those of shape
become a matrix, which moves boxes and masks too; those of colour are drawn from what the pixels allow.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from densenet_suite.augment import affine, library, photometry
from densenet_suite.augment.pixels import blurred
from densenet_suite.augment.policy import AugmentPolicy

Array = np.ndarray[Any, Any]

# at magnitude 10
_TURN = 30.0  # degrees
_SHEAR = 0.3
_SHIFT = 0.3  # of the side
_COLOUR = 0.9
_BLUR = 2.0  # pixels

SHAPES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
ANY_PIXELS = ("brightness", "contrast", "blur")
EIGHT_BITS = ("equalize", "posterize", "solarize", "sharpen")
COLOURS = ("saturation",)


@dataclass(frozen=True)
class Operations:
    """What was drawn for a picture.

    Attributes:
        warp: [3 3] of (x, y, 1) relative to the middle of the canvas and, where it shifts, in its size; None for none.
        colours: (name, how far from -1 to 1).
    """

    warp: Array | None
    colours: tuple[tuple[str, float], ...]


NOTHING = Operations(None, ())


def available(dtype: Any, bands: int) -> tuple[str, ...]:
    """Return the operations that such pixels allow."""
    eight = np.dtype(dtype) == np.uint8 and bands in (1, 3)
    return SHAPES + ANY_PIXELS + (EIGHT_BITS if eight else ()) + (COLOURS if eight and bands == 3 else ())


def draw_operations(
    policy: AugmentPolicy, canvas: tuple[int, int], dtype: Any, bands: int, rng: np.random.Generator
) -> Operations:
    """Draw `policy.randaugment` operations for a picture on a canvas of (height, width)."""
    names = available(dtype, bands)
    warp: Array | None = None
    colours = []
    for _ in range(policy.randaugment):
        name = names[int(rng.integers(len(names)))]
        amount = policy.magnitude / 10 * (1 if rng.random() < 0.5 else -1)
        if name in SHAPES:
            step = _warp(name, amount, canvas)
            warp = step if warp is None else step @ warp
        else:
            colours.append((name, amount))
    return Operations(warp, tuple(colours))


def recoloured(image: Array, colours: tuple[tuple[str, float], ...], spread: Array) -> Array:
    """Change the colours of [h w c] by what was drawn, one after the other.

    Args:
        image: uint8 or float32.
        colours: (name, how far from -1 to 1).
        spread: deviation of each band.
    """
    for name, amount in colours:
        if name == "blur":
            image = blurred(image, max(0.1, abs(amount) * _BLUR))
        elif name in EIGHT_BITS:
            image = library.changed(library.COLOUR_CHANGES[name](abs(amount)), image)
        else:
            image = photometry.shifted(image, {name: amount * _COLOUR}, spread)
    return image


def _warp(name: str, amount: float, canvas: tuple[int, int]) -> Array:
    if name == "rotate":
        return affine.rotation(amount * _TURN)
    if name.startswith("shear"):
        return affine.shearing(*((amount * _SHEAR, 0.0) if name == "shear_x" else (0.0, amount * _SHEAR)))
    height, width = canvas
    return affine.scaling(
        1, 1, *((amount * _SHIFT * width, 0) if name == "translate_x" else (0, amount * _SHIFT * height))
    )
