"""The first convolution of a network of RGB images, made one for other bands."""

from collections.abc import Sequence

import torch
from torch import Tensor

from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import BANDS, default_bands


def check_bands(bands: Sequence[str], in_channels: int) -> None:
    """Raise ConfigError where `bands` does not say of each input band what it is taken for."""
    if len(bands) != in_channels or not set(bands) <= set(BANDS):
        raise ConfigError(
            f"bands {tuple(bands)} do not describe {in_channels} input channels",
            hint=f"give each of them one of {', '.join(BANDS)}",
        )


def adapt_bands(weight: Tensor, in_channels: int, bands: Sequence[str] | None, where: str | None = None) -> Tensor:
    """Make the first convolution of an RGB network one for other bands.

    "red", "green" and "blue" take the kernel of that colour; "grey" takes the sum of the three, shared among the grey
    bands, so that a grey image gives what its three equal channels gave; "new" starts at zero and learns, so the answer
    is that of the other bands alone.

    Raises:
        ConfigError: the weights are not for RGB, or `bands` does not fit.
    """
    bands = tuple(bands) if bands is not None else default_bands(in_channels)
    if weight.shape[1] != 3:
        raise ConfigError(f"weights are for {weight.shape[1]} bands, the network takes {in_channels}", where=where)
    check_bands(bands, in_channels)
    red, green, blue = weight.unbind(1)
    grey = (red + green + blue) / max(1, bands.count("grey"))
    kernels = {"red": red, "green": green, "blue": blue, "grey": grey, "new": torch.zeros_like(red)}
    return torch.stack([kernels[band] for band in bands], 1)
