"""Batch norm and SiLU with two thirds of what they keep for the backward pass.

Each of the two keeps its input, and the convolution behind them keeps their output: three maps for every convolution.
Here the middle one, the norm's output, is computed again in the backward pass from the norm's input and its statistics.
Forward is the same to the bit.
"""

from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# PyTorch's own base class: also of SyncBatchNorm, and of what Lightning leaves of that after a run
BatchNorm = nn.modules.batchnorm._BatchNorm


class SiLU(nn.Module):
    """x * sigmoid(x); in place where nothing is learned. In training that would cost a copy: the gradient needs x."""

    def forward(self, x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Apply it; without gradients the input is overwritten."""
        return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))


def norm_act(norm: nn.Module, act: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return `act(norm(x))`."""
    if isinstance(act, SiLU) and learns(norm):
        result: Tensor = _NormSiLU.apply(x, norm.weight, norm.bias, norm, next_momentum(norm))
        return result
    activated: Tensor = act(norm(x))
    return activated


def learns(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a norm takes its statistics from the batch and averages them, and has a gradient to come."""
    if type(norm) is not nn.BatchNorm2d or not torch.is_grad_enabled():  # those derived from it are left to PyTorch
        return False
    return norm.training and norm.affine and norm.track_running_stats


def next_momentum(norm: nn.BatchNorm2d) -> float:
    """Count a batch, and return the weight of its statistics in the running ones."""
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, momentum: float) -> Tensor:
        statistics = norm.running_mean, norm.running_var
        y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, *statistics, True, momentum, norm.eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps = norm.eps
        return F.silu(y, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        scale = weight * inverse_std
        shift = torch.addcmul(bias, mean, scale, value=-1)
        y = torch.addcmul(shift.view(1, -1, 1, 1), x, scale.view(1, -1, 1, 1)).to(x.dtype)
        upstream = torch.ops.aten.silu_backward(upstream, y, grad_input=y)  # memory at hand is faster than new
        gradients = torch.ops.aten.native_batch_norm_backward(
            upstream, x, weight, None, None, mean, inverse_std, True, ctx.eps, [True, True, True]
        )
        return (*gradients, None, None)
