"""The images that an exported network takes: their number, size and type, and pictures to try it on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.export import Dim
from torch.nn import functional as F

PixelType = Literal["uint8", "float32"]


@dataclass(frozen=True)
class ExportInputs:
    """What is fixed of the images [b c h w], and what is not.

    Attributes:
        bands: c.
        pixels: type of the pixel values.
        value_range: the largest of them.
        batch: number of images; None if any.
        size: (height, width); None if they differ.
        multiple: what both sides are multiples of, and at least twice, where they differ.
        usual: (height, width) that such a network is tried at.
    """

    bands: int
    pixels: PixelType
    value_range: float
    batch: int | None
    size: tuple[int, int] | None
    multiple: int
    usual: tuple[int, int]

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The shape of the images as it is written into a file, with names for what is open."""
        return (self.batch or "batch", self.bands, *(self.size or ("height", "width")))

    def example(self) -> Shaped[Tensor, "b c h w"]:
        """Return images to follow through the network; what is open is larger than 1, which would be taken as fixed."""
        return torch.zeros(self.batch or 2, self.bands, *(self.size or (2 * self.multiple, 3 * self.multiple))).to(
            getattr(torch, self.pixels)
        )

    def dimensions(self) -> tuple[dict[int, Any]]:
        """Return what torch.export leaves open."""
        free: dict[int, Any] = {} if self.batch else {0: Dim("batch", min=1)}
        if self.size is None:
            free |= {2: self.multiple * Dim("rows", min=2), 3: self.multiple * Dim("columns", min=2)}
        return (free,)

    def trials(self) -> Iterator[Shaped[Tensor, "b c h w"]]:
        """Yield pictures of noise and of smooth shades, of two numbers and sizes where these are open."""
        generator = torch.Generator().manual_seed(0)
        for batch, size in self._trial_shapes():
            noise = torch.rand(batch, self.bands, *size, generator=generator)
            shades = torch.rand(batch, self.bands, 4, 4, generator=generator)
            for image in (noise, F.interpolate(shades, size, mode="bilinear")):
                yield (image * self.value_range).to(getattr(torch, self.pixels))

    def _trial_shapes(self) -> list[tuple[int, tuple[int, int]]]:
        if self.size and self.batch:
            return [(self.batch, self.size)]
        height, width = self.size or self.usual
        other = self.size or (height + self.multiple, width + 2 * self.multiple)
        return [(self.batch or 1, (height, width)), (self.batch or 3, other)]


def dynamic_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the smallest size that a network of open sizes takes and that is not below the given one."""
    height, width = (max(2, -(-side // multiple)) * multiple for side in size)
    return height, width
