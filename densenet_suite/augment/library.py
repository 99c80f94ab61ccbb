"""The only module that knows albumentations: what it is asked for, and its traps shut.

Of version 2.0.8: it gives the same draws in every worker and every epoch, and seeds all transforms of a pipeline alike
(here each has a seed of its own, from the sample's); it clips floats above 1 (they never come here for their colours);
it fills at most four bands, and the border of a mask with class 0 (borders are filled before it warps); it warns of an
argument that it does not know and goes on (here that is an error); it asks the network for its newest version when it
is imported (here it does not). Its `Normalize` takes the first band's numbers for all where some are missing, and is
not used: the network normalises. Masks come as uint8 only, boxes and labels not at all: where those go, a plan says.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from densenet_suite.errors import ConfigError

Array = np.ndarray[Any, Any]

VERSION = "2.0.8"
_REPEATED = 1  # OpenCV's BORDER_REPLICATE


def transform(name: str, arguments: Mapping[str, Any]) -> Any:
    """Make a transform that is always applied.

    Raises:
        TypeError: it has no such argument, or not that value for it, of which the library itself only warns.
    """
    kind = getattr(albumentations(), name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return kind(**arguments, p=1)
        except (UserWarning, ValueError) as error:
            raise TypeError(f"albumentations.{name}: {error}") from None


def elastic(deviation: float, smooth: float) -> Any:
    """Displace by so many pixels (standard deviation), smoothed by a Gaussian of `smooth` pixels."""
    # white noise of -1 to 1, smoothed by a Gaussian of s pixels, has a deviation of 1 / (2 sqrt(3 pi) s)
    alpha = deviation * 2 * float(np.sqrt(3 * np.pi)) * smooth
    return transform(
        "ElasticTransform",
        {"alpha": alpha, "sigma": smooth, "noise_distribution": "uniform", "border_mode": _REPEATED},
    )


def rotation(degrees: float) -> Any:
    """Turn by up to so many degrees, both ways."""
    return transform("Rotate", {"limit": (-degrees, degrees), "border_mode": _REPEATED})


def compression(loss: float) -> Any:
    """Lose this share of JPEG's quality."""
    quality = max(1, round(100 * (1 - loss)))
    return transform("ImageCompression", {"quality_range": (quality, quality)})


# by name, for a strength of 0 to 1
COLOUR_CHANGES: Mapping[str, Callable[[float], Any]] = {
    "equalize": lambda strength: transform("Equalize", {}),
    "posterize": lambda strength: transform("Posterize", {"num_bits": 7 - round(3 * strength)}),
    "solarize": lambda strength: transform("Solarize", {"threshold_range": (1 - strength, 1 - strength)}),
    "sharpen": lambda strength: transform("Sharpen", {"alpha": (strength, strength), "lightness": (1.0, 1.0)}),
}


def warp(transforms: tuple[Any, ...], image: Array, mask: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Change the shape of an image [h w c] and of a mask [h w k] alike, each transform by a seed of its own.

    Raises:
        ValueError: the mask is not uint8: of other types the library makes int32 and worse.
    """
    if mask.dtype != np.uint8:
        raise ValueError(f"mask is {mask.dtype}, albumentations is given uint8")
    for one in transforms:
        one.set_random_seed(int(rng.integers(2**32)))
        result = one(image=image, mask=mask)
        image, mask = (result[key].reshape(*result[key].shape[:2], -1) for key in ("image", "mask"))
    return image, mask


def changed(one: Any, image: Array) -> Array:
    """Change the colours of 8-bit grey or colour [h w c], by a transform that draws nothing.

    Raises:
        ValueError: they are others, which the library would clip or refuse.
    """
    if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        raise ValueError(f"colours are {image.dtype} of {image.shape[2]} bands, albumentations is given 8-bit 1 or 3")
    return np.asarray(one(image=np.ascontiguousarray(image))["image"]).reshape(image.shape)


def albumentations() -> Any:
    """Import the library late, for it takes seconds, and quietly, for it would ask the network for its newest version.

    Raises:
        ConfigError: another version is installed, or another package under this name; those are not MIT and not tested.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    found = f"albumentations {albumentations.__version__}"
    if albumentations.__version__ == VERSION:
        other = _version_of("albumentationsx")
        if other is None:
            return albumentations
        found = f"albumentationsx {other}"
    raise ConfigError(
        f"{found} is installed, this version works with albumentations {VERSION}",
        hint=f"pip uninstall albumentationsx; pip install --force-reinstall albumentations=={VERSION}",
    )


@cache
def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
