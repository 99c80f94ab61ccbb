"""The end of a mobile block in inference: a pointwise convolution of a map whose channels are weighted by a gate.

Of a single image the kernel is gated instead, which is a hundredth of the map, and the gated map is never made. Other
runtimes lay out kernels once, when they load a network, so in exported ones the kernel stays a constant.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

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

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Gate and convolve."""
        conv = self.project.conv
        if torch.compiler.is_exporting() or x.shape[0] > 1 or not isinstance(conv, nn.Conv2d):
            return self.project(self.gate(x))
        return F.conv2d(x, self._gated(conv.weight, x), conv.bias)

    def _gated(self, weight: Float[Tensor, "c2 c 1 1"], x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "c2 c 1 1"]:
        gate = self.gate
        on_cpu = x.device.type == "cpu" and isinstance(gate.act, SiLU)
        if torch.compiler.is_compiling() and on_cpu and not x.requires_grad:
            gated: Tensor = _gated_kernel(
                weight, x, gate.reduce.weight, gate.reduce.bias, gate.expand.weight, gate.expand.bias
            )
            return gated
        return weight * gate.gate(x)


@torch.library.custom_op("densenet_suite::gated_kernel", mutates_args=())
def _gated_kernel(
    weight: Tensor,
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
) -> Tensor:
    """Gate a kernel as one step for a compiler, which would compile two kernels of C++ for it, no faster than this.

    A network has as many of them as there are shapes of maps: they were a fifth of the seconds that compiling D0 takes.
    """
    squeezed = F.silu(F.conv2d(pooled(x), reduce_weight, reduce_bias))
    return weight * F.conv2d(squeezed, expand_weight, expand_bias).sigmoid()


@_gated_kernel.register_fake
def _(weight: Tensor, *_: Tensor | None) -> Tensor:
    return torch.empty_like(weight)
