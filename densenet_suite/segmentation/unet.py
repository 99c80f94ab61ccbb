"""The U-Net decoder: the same function of the same parameters as `smp.Unet`'s, computed with less work.

A block repeats a coarse map to twice its size, joins it with the backbone's map of that size, and convolves. A 3x3
convolution of a repeated map is a transposed convolution of the map itself, with a 4x4 kernel and stride 2: each output
cell sees at most 2x2 different cells, so four products do what nine did, and neither the repeated map nor the joined
one is ever made. Where the finer map is not exactly twice as large (odd sizes), or a gate must see the joined map
(scSE), the block computes what is written above. A batch norm that does not learn is multiplied into the kernel before
it.

References: Ronneberger, Fischer & Brox, U-Net, arXiv:1505.04597; Roy, Navab & Wachinger, scSE, arXiv:1808.08127,
section 3.3. Blocks of two convolutions and the skip from stride 2 are segmentation_models_pytorch's.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.fusing import Fusible
from densenet_suite.layers import with_norm
from densenet_suite.norm_act import BatchNorm
from densenet_suite.onednn import Rectified, convolved, convolved_onto_, doubled
from densenet_suite.segmentation.variants import Attention


class UnetDecoder(nn.Module):
    """The decoder.

    Args:
        in_channels: channels of the backbone's maps, fine to coarse; each has half the cells of the one before.
        channels: outputs of the blocks, coarse to fine. Blocks beyond the maps have no skip.
        attention: of every block.

    Attributes:
        channels: of the levels, finest first.
    """

    def __init__(self, in_channels: Sequence[int], channels: Sequence[int], attention: Attention | None = None):
        super().__init__()
        self.channels = tuple(reversed(channels))
        coarse, *finer = reversed(in_channels)
        skips = [*finer, *[0] * (len(channels) - len(finer))]
        self.blocks = nn.ModuleList(
            UnetBlock(inputs, skip, outputs, attention)
            for inputs, skip, outputs in zip([coarse, *channels[:-1]], skips, channels, strict=True)
        )
        self.apply(_initialize)

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]], size: tuple[int, int]
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the outputs of all blocks, finest first, for an image of `size` (height, width)."""
        x, *skips = reversed(features)
        levels = []
        for i, block in enumerate(self.blocks):
            stride = 2 ** (len(self.blocks) - 1 - i)
            skip = skips[i] if i < len(skips) else None
            target = (-(-size[0] // stride), -(-size[1] // stride)) if skip is None else skip.shape[-2:]
            x = block(x, skip, target)
            levels.append(x)
        return levels[::-1]


class UnetBlock(Fusible):
    """Twice the size, joined with a skip (none where `skip` is 0), gated, and convolved twice."""

    def __init__(self, inputs: int, skip: int, outputs: int, attention: Attention | None):
        super().__init__()
        self.inputs = inputs
        self.gate1 = ScSE(inputs + skip) if attention and skip else None
        self.conv1 = nn.Conv2d(inputs + skip, outputs, 3, padding=1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(outputs)
        self.gate2 = ScSE(outputs) if attention else None
        self.fixed_kernel: Tensor | None
        self.register_buffer("fixed_kernel", None, persistent=False)

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s h2 w2"] | None, size: Sequence[int]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the block's output, of the height and width `size`."""
        weight, bias, act = _with_norm(self.conv1, self.norm1)
        twice = size[0] == 2 * x.shape[-2] and size[1] == 2 * x.shape[-1]
        if twice and self.gate1 is None:
            of_map, of_skip = weight.split((self.inputs, weight.shape[1] - self.inputs), 1)
            kernel = upsampling_kernel(of_map) if self.fixed_kernel is None else self.fixed_kernel
            if skip is None:
                y = doubled(x, kernel, bias, act)
            else:
                y = convolved_onto_(doubled(x, kernel, bias, "none"), skip, of_skip, act)
        else:
            joined = F.interpolate(x, (size[0], size[1]), mode="nearest")
            if skip is not None:
                joined = torch.cat((joined, skip), 1)
            if self.gate1 is not None:
                joined = self.gate1(joined)
            y = convolved(joined, weight, bias, act, padding=(1, 1))
        y = _learned(y, self.norm1, act)
        weight, bias, act = _with_norm(self.conv2, self.norm2)
        y = _learned(convolved(y, weight, bias, act, padding=(1, 1)), self.norm2, act)
        return y if self.gate2 is None else self.gate2(y)

    def fuse_(self) -> None:
        """Make the norms part of the convolutions, and keep the kernel of the transposed one."""
        for conv, norm in (("conv1", "norm1"), ("conv2", "norm2")):
            if isinstance(batch_norm := getattr(self, norm), BatchNorm):
                setattr(self, conv, with_norm(getattr(self, conv), batch_norm))
                setattr(self, norm, nn.Identity())
        self.fixed_kernel = upsampling_kernel(self.conv1.weight[:, : self.inputs])


class ScSE(nn.Module):
    """Features weighted by a gate for each channel plus one for each cell."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(1, channels // 16)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.spatial = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Apply the gates."""
        channel = self.expand(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * (channel + self.spatial(x).sigmoid())


def upsampling_kernel(weight: Float[Tensor, "o c 3 3"]) -> Float[Tensor, "c o 4 4"]:
    """Return the kernel with which a transposed convolution of stride 2, padded with one zero, convolves a doubled map.

    Row i of the map becomes rows 2i and 2i+1 by nearest upsampling, so an output row takes the sum of the taps that
    fall on the same row of the map. Going through the taps of the transposed convolution, which are in reverse order,
    these sums are w2, w2+w1, w1+w0 and w0: the sums of two neighbours in the reversed kernel between zeros. The same
    holds for columns.
    """
    # the layout that oneDNN takes kernels in: with another one its reordering costs more than the deepest convolution
    reverse = weight.flip((2, 3)).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    return F.avg_pool2d(reverse, 2, stride=1, padding=1, divisor_override=1)


def _with_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None, Rectified]:
    """Return kernel, bias and activation of a convolution.

    The batch norm behind it is in them where that uses fixed statistics; where it does not, the activation is still to
    come, behind the norm.
    """
    if isinstance(norm, nn.Identity):
        return conv.weight, conv.bias, "relu"
    if not isinstance(norm, BatchNorm) or norm.training:
        return conv.weight, conv.bias, "none"
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale, "relu"


def _learned(y: Tensor, norm: nn.Module, act: Rectified) -> Tensor:
    """Apply a norm and the activation where `act`, of the convolution before, is not that already."""
    return y if act == "relu" else norm(y).relu_()


def _initialize(module: nn.Module) -> None:
    """Initialise as segmentation_models_pytorch does: He's uniform, by fan in."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
