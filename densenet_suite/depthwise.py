"""Depthwise convolutions of wide kernels, whose backward pass takes a half to a third of the time on a CPU.

oneDNN has quick code for the gradient of a depthwise kernel of up to three columns, and slow code for wider ones: that
of a 5x5 kernel takes as long as fourteen forward passes. But every column of a kernel learns by itself, so the gradient
is put together from those of kernels of three columns. Forward is the same to the bit.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_QUICK = 3  # columns


def depthwise(x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c 1 k k"], stride: int) -> Float[Tensor, "b c h2 w2"]:
    """Return the depthwise convolution of a map, padded by half a kernel; of an odd kernel, at a stride of 1 or 2."""
    if weight.shape[-1] > _QUICK and _learns_in_float32_on_cpu(weight):
        convolved: Tensor = _Wide.apply(x, weight, stride)
        return convolved
    return _convolved(x, weight, stride)


def _convolved(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))


def _learns_in_float32_on_cpu(weight: Tensor) -> bool:
    here = weight.device.type == "cpu" and weight.dtype == torch.float32
    return here and weight.requires_grad and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


class _Wide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _convolved(x, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        stride, size = ctx.stride, weight.shape[-1]
        half = size // 2

        def gradients(x: Tensor, kernel: Tensor, padding: tuple[int, int], wanted: tuple[bool, bool, bool]) -> Any:
            geometry = (stride, stride), padding, (1, 1), False, (0, 0), len(kernel)
            return torch.ops.aten.convolution_backward(upstream, x, kernel, None, *geometry, wanted)

        learned = []
        for start in range(0, size - 2, 2):  # three columns from every second one
            end = (upstream.shape[-1] - 1) * stride - half + start + _QUICK
            seen = F.pad(x, (half - start, end - x.shape[-1]))
            kernel = weight[..., start : start + _QUICK]
            learned.append(gradients(seen, kernel, (half, 0), (False, True, False))[1])
        of_weight = torch.cat([*(part[..., :2] for part in learned[:-1]), learned[-1]], -1)
        of_x = gradients(x, weight, (half, half), (True, False, False))[0] if ctx.needs_input_grad[0] else None
        return of_x, of_weight, None
