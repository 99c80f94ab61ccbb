"""Pixel values to network input: one object for training, validation and prediction, stored with the weights."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RGB = ("red", "green", "blue")
BANDS = (*RGB, "grey", "new")


def default_bands(in_channels: int) -> tuple[str, ...]:
    """Return what the bands are taken for where nothing is said: grey below three, RGB and then new ones above."""
    return ("grey",) * in_channels if in_channels < 3 else RGB + ("new",) * (in_channels - 3)


@dataclass(frozen=True)
class Normalization:
    """The statistics that a set of weights was trained with: `(pixel / value_range - mean) / std` per band.

    `mean` and `std` are those of pixels scaled to 0..1; `value_range` is the largest pixel value of the files
    (255 for 8 bits). Images are padded with `padding`, a pixel value, or where it is None with the mean, which
    normalises to zero.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: float = 255.0
    padding: int | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means for {len(self.std)} deviations: one of each for every band")
        if min(self.std) <= 0 or self.value_range <= 0:
            raise ValueError(f"std {self.std} and value_range {self.value_range} must be positive")

    @classmethod
    def imagenet(cls) -> Self:
        """Return the statistics of ImageNet, for RGB."""
        return cls(IMAGENET_MEAN, IMAGENET_STD)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(tuple(values["mean"]), tuple(values["std"]), values["value_range"], values["padding"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model file."""
        return asdict(self)

    def for_bands(self, bands: int | Sequence[str]) -> Self:
        """Return the same statistics for other bands: a colour keeps its own, every other band takes their mean.

        `bands` says what each is taken for, as in `create_backbone`; a number stands for the usual ones.
        """
        if bands == len(self.mean):
            return self
        names = default_bands(bands) if isinstance(bands, int) else bands

        def of(values: tuple[float, ...]) -> tuple[float, ...]:
            colours = dict(zip(RGB, values, strict=True)) if len(values) == len(RGB) else {}
            return tuple(colours.get(name, sum(values) / len(values)) for name in names)

        return replace(self, mean=of(self.mean), std=of(self.std))

    @property
    def fill(self) -> tuple[int, ...]:
        """The pixel of padding, rounded to a whole value."""
        if self.padding is not None:
            return (self.padding,) * len(self.mean)
        return tuple(round(mean * self.value_range) for mean in self.mean)


class Preprocess(nn.Module):
    """Normalises pixel values on the device; part of the model, without a place in its state dict.

    It computes in float32 for a network of half precision, which would round the pixels themselves.
    """

    scale: Tensor
    shift: Tensor
    output: Tensor

    def __init__(self, normalization: Normalization):
        super().__init__()
        self.normalization = normalization
        scale, shift = _affine(normalization)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("output", torch.empty(0), persistent=False)  # has the type of the network's weights

    def forward(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise pixel values of any dtype, in the range of their file.

        Raises:
            ValueError: the number of bands is not that of the statistics.
        """
        if images.shape[1] != self.scale.shape[1]:
            raise ValueError(
                f"images have {images.shape[1]} bands, the model takes {self.scale.shape[1]}: "
                f"create it with in_channels={images.shape[1]}"
            )
        pixels = images.to(self.scale.dtype)
        copy = None if images.is_floating_point() else pixels  # memory at hand is faster than new
        return torch.addcmul(self.shift, pixels, self.scale, out=copy).to(self.output.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the network to its device and type, and keep the digits of the statistics."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        precise = torch.promote_types(self.output.dtype, torch.float32)
        self.scale, self.shift = (values.to(self.output.device, precise) for values in _affine(self.normalization))
        return self


def _affine(normalization: Normalization) -> tuple[Tensor, Tensor]:
    """Return what pixels are multiplied by, and what is added then: their mean becomes zero but for rounding."""
    std = torch.tensor(normalization.std, dtype=torch.float64)
    scale = 1 / (std * normalization.value_range)
    shift = -torch.tensor(normalization.mean, dtype=torch.float64) / std
    return scale.float().view(1, -1, 1, 1), shift.float().view(1, -1, 1, 1)
