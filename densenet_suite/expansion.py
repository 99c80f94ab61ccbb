"""A pointwise convolution to many channels, its batch norm and SiLU, which learn on a CPU without the map between.

The map W x has several times the channels of x, and a norm reads it twice in each direction. But its mean and variance
follow from the mean m and the covariance C of the few channels of x: they are W m and the diagonal of W C W^T. So the
norm is multiplied into the kernel before the map is made, and what its gradient sums up over the map are products too.
The covariance is taken in float64, which leaves the result nearer to the exact one than that of three steps is.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densenet_suite.norm_act import next_momentum

_CELLS = 256  # for each channel: with fewer of them the covariance costs more than it saves


def is_cheaper(x: Float[Tensor, "b c h w"]) -> bool:
    """Whether `expanded` takes less time for a map than three steps do; half precision is left to those."""
    batch, channels, height, width = x.shape
    exact = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return exact and batch * height * width >= _CELLS * channels


def expanded(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c2 c 1 1"], norm: nn.BatchNorm2d
) -> Float[Tensor, "b c2 h w"]:
    """Return `silu(norm(conv2d(x, weight)))` of a map in channels_last; `norm` learns and averages its statistics."""
    activated: Tensor = _Expanded.apply(x, weight, norm.weight, norm.bias, norm, next_momentum(norm))
    return activated


class _Expanded(torch.autograd.Function):
    """`mean` and `covariance` are m and C of the module's text, and `normalised` is the kernel with the norm in it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, norm: nn.BatchNorm2d, momentum: float
    ) -> Tensor:
        cells = x.permute(0, 2, 3, 1)
        rows = cells.flatten(0, 2).double()
        count, kernel = len(rows), weight.flatten(1)
        mean = rows.mean(0)
        covariance = (rows.T @ rows).div_(count).addr_(mean, mean, alpha=-1)
        wide = kernel.double()
        spread = wide @ covariance
        variance = (spread * wide).sum(1).clamp_(min=0)
        _average(norm, wide @ mean, variance * (count / (count - 1)), momentum)
        inverse_std = (variance + norm.eps).rsqrt()
        normalised = ((gain * inverse_std)[:, None] * wide).to(x.dtype)
        shift = (bias - gain * inverse_std * (wide @ mean)).to(x.dtype)
        kept = (statistic.to(x.dtype) for statistic in (mean, spread, inverse_std))
        ctx.save_for_backward(x, kernel, gain, normalised, shift, *kept)
        return F.silu(F.linear(cells, normalised, shift), inplace=True).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        x, kernel, gain, normalised, shift, mean, spread, inverse_std = ctx.saved_tensors
        cells = x.permute(0, 2, 3, 1)
        rows = cells.flatten(0, 2)
        y = F.linear(rows, normalised, shift)
        of_norm = torch.ops.aten.silu_backward(upstream.permute(0, 2, 3, 1).flatten(0, 2), y, grad_input=y)
        of_bias = of_norm.sum(0)
        seen = (of_norm.T @ rows).addr_(of_bias, mean, alpha=-1)  # of centred rows
        of_gain = (seen * kernel).sum(1) * inverse_std
        scale = gain * inverse_std
        of_kernel = scale[:, None] * (seen - (of_gain * inverse_std)[:, None] * spread)
        # a norm takes from its gradient what would only move the mean of the map or scale it
        scaling = kernel.T @ ((scale * inverse_std * of_gain / len(rows))[:, None] * kernel)
        moving = mean @ scaling - (scale * of_bias / len(rows)) @ kernel
        of_rows = torch.addmm(moving, rows, scaling, alpha=-1).addmm_(of_norm, normalised)
        return of_rows.view(cells.shape).permute(0, 3, 1, 2), of_kernel[..., None, None], of_gain, of_bias, None, None


def _average(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, momentum: float) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)
