"""The end of a mobile block in inference: a pointwise convolution of a map whose channels are weighted by a gate.

Where the kernel is smaller than the map it is gated instead, for each image by itself: it is a hundredth of the larger
maps, and the gated map is never made. Other runtimes lay out kernels once, when they load a network, so in exported
ones the kernel stays a constant.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.compiling import as_row, takes_whole_steps
from densenet_suite.layers import ConvNormAct, SqueezeExcite, pooled
from densenet_suite.norm_act import SiLU


class GatedConv(nn.Module):
    """A convolution and the gate before it.

    Args:
        gate: sees the map.
        project: fused, and without an activation.
    """

    def __init__(self, gate: SqueezeExcite, project: ConvNormAct):
        super().__init__()
        self.gate = gate
        self.project = project

    def forward(self, x: Float[Tensor, "b c h w"], onto: Float[Tensor, "b c2 h w"] | None) -> Float[Tensor, "b c2 h w"]:
        """Gate and convolve, and add a map if there is one."""
        gate, conv = self.gate, self.project.conv
        if isinstance(conv, nn.Conv2d) and conv.bias is not None:  # the norm's
            if isinstance(gate.act, SiLU) and takes_whole_steps(x, conv.weight):
                layers = gate.reduce, gate.expand, conv
                weights = [layer.weight for layer in layers]
                biases = [as_row(layer.bias) for layer in layers if layer.bias is not None]  # each has one
                whole: Tensor = _gated_conv(x, weights, biases, onto)
                return whole
            if not torch.compiler.is_compiling():
                return _convolved(x, gate.gate(x), conv.weight, conv.bias, onto)
        y = self.project(gate(x))
        return y if onto is None else y + onto


def _convolved(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, onto: Tensor | None) -> Tensor:
    batch, _, height, width = x.shape
    if height * width < len(weight):
        y = F.conv2d(x * gate, weight, bias)
    elif batch == 1:
        y = F.conv2d(x, weight * gate, bias)
    else:
        kernels = weight.flatten(1) * gate.flatten(2).mT  # [b c2 c]
        start = bias.expand(batch, height * width, -1) if onto is None else _cells(onto) + bias
        return torch.baddbmm(start, _cells(x), kernels.mT).unflatten(1, (height, width)).permute(0, 3, 1, 2)
    return y if onto is None else y + onto


def _cells(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    return x.permute(0, 2, 3, 1).flatten(1, 2)


@torch.library.custom_op("densenet_suite::gated_conv", mutates_args=())
def _gated_conv(x: Tensor, weights: list[Tensor], biases: list[Tensor], onto: Tensor | None) -> Tensor:
    """Do what `GatedConv` does, of the convolutions that reduce, expand and project."""
    (reduce, expand, project), (of_reduce, of_expand, of_project) = weights, [bias[0] for bias in biases]
    gate = F.conv2d(F.silu(F.conv2d(pooled(x), reduce, of_reduce)), expand, of_expand).sigmoid()
    return _convolved(x, gate, project, of_project, onto).contiguous(memory_format=torch.channels_last)


@_gated_conv.register_fake
def _(x: Tensor, weights: list[Tensor], *_: object) -> Tensor:
    y = x.new_empty((x.shape[0], len(weights[-1]), *x.shape[2:]))
    return y.contiguous(memory_format=torch.channels_last)
