"""Convolutions and what follows them as one step of oneDNN: on a CPU, where nothing is learned.

An activation or an addition of its own reads and writes the whole map again. The operators are those that torch.compile
uses. Elsewhere each function computes what it says in PyTorch's steps.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Rectified = Literal["none", "relu"]  # oneDNN's names
Act = Rectified | Literal["swish"]
_UNIT = (1, 1)


def convolved(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c2 _ k k"],
    bias: Float[Tensor, " c2"] | None,
    act: Act,
    *,
    stride: tuple[int, ...] = _UNIT,
    padding: tuple[int, ...],
    groups: int = 1,
) -> Float[Tensor, "b c2 h2 w2"]:
    """Return the activation of a convolution."""
    if not _runs_here(x, weight):
        return _activated(F.conv2d(x, weight, bias, stride, padding, groups=groups), act)
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, _UNIT, groups, act, [], "")
    return y


def convolved_onto_(
    total: Float[Tensor, "b c2 h w"], x: Float[Tensor, "b c h w"], weight: Float[Tensor, "c2 c k k"], act: Rectified
) -> Float[Tensor, "b c2 h w"]:
    """Return the activation of `total` and a convolution of the same size, which is added to it in place."""
    padding = (weight.shape[-1] // 2,) * 2
    if not (_runs_here(x, weight) and _is_channels_last(x) and _is_channels_last(total)):  # others may be refused
        total += F.conv2d(x, weight, padding=padding)
        return _activated(total, act)
    unary = None if act == "none" else act
    y: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
        total, x, weight, None, padding, _UNIT, _UNIT, 1, "add", 1.0, unary, [], None
    )
    return y


def doubled(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "c c2 4 4"],
    bias: Float[Tensor, " c2"] | None,
    act: Act,
) -> Float[Tensor, "b c2 2*h 2*w"]:
    """Return the activation of a transposed convolution of stride 2, which gives twice the size."""
    if not _runs_here(x, weight):
        return _activated(F.conv_transpose2d(x, weight, bias, stride=2, padding=1), act)
    y: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(
        x, weight, bias, _UNIT, (0, 0), (2, 2), _UNIT, 1, act, [], ""
    )
    return y


def _runs_here(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute the step here and now: a compiler finds its own way to it, autocast knows none."""
    if torch.compiler.is_compiling() or not torch.backends.mkldnn.is_available() or torch.is_autocast_enabled("cpu"):
        return False
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and not learns


def _is_channels_last(x: Tensor) -> bool:
    """Whether a map is in this layout, and not in both, as one of a single channel or cell is."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _activated(y: Tensor, act: Act) -> Tensor:
    match act:
        case "none":
            return y
        case "relu":
            return y.relu_()
        case "swish":
            return F.silu(y, inplace=not y.requires_grad)
