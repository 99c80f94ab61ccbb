"""Features of neighbouring levels, brought to one size, weighed, added and activated: how a node of a BiFPN begins.

Reference: EfficientDet, arXiv:1911.09070, section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densenet_suite.compiling import as_row, takes_whole_steps
from densenet_suite.norm_act import SiLU


@dataclass(frozen=True)
class Resample:
    """Features to the size of a neighbouring level, down or up: see `BiFPN`."""

    method: str
    same: bool

    def aligned(
        self, inputs: Sequence[Float[Tensor, "b c _ _"]], steps: Sequence[int]
    ) -> list[Float[Tensor, "b c _ _"]]:
        """Bring inputs to the level of the first, than which they are coarser by so many steps."""
        size = inputs[0].shape[-2:]
        return [
            self.down(x, size) if step < 0 else self.up(x, size) if step > 0 else x
            for x, step in zip(inputs, steps, strict=True)
        ]

    def down(self, x: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c h2 w2"]:
        """Halve, rounding up: the maximum of 3x3 cells, or bilinearly."""
        if self.method == "bilinear":
            return F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False)
        height, width = x.shape[-2:]
        if not self.same:
            return F.max_pool2d(x, 3, 2, 1)
        if torch.compiler.is_compiling() or height % 2 != width % 2:
            return F.max_pool2d(F.pad(x, (width % 2, 1, height % 2, 1), value=-math.inf), 3, 2)
        # without the copy that padding is: windows that begin at the first cell, and the last reaches beyond the edge
        return F.max_pool2d(x, 3, 2, ceil_mode=True) if height % 2 == 0 else F.max_pool2d(x, 3, 2, 1)

    def up(self, x: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c h2 w2"]:
        """Double, to the exact size of the finer level; what `weighted_sum` can repeat is left as it is."""
        if self.method == "bilinear":
            return F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False)
        if not torch.compiler.is_compiling() and (size[0], size[1]) == (2 * x.shape[-2], 2 * x.shape[-1]):
            return x
        return F.interpolate(x, (size[0], size[1]), mode="nearest")


def fused_features(
    inputs: list[Float[Tensor, "b c _ _"]],
    shares: Float[Tensor, " n"],
    steps: list[int],
    resample: Resample,
    act: nn.Module,
) -> Float[Tensor, "b c h w"]:
    """Return the activation of the sum of inputs times shares, of the size of the first.

    Args:
        inputs: of neighbouring levels.
        shares: what each is multiplied by.
        steps: by how many levels each is coarser than the first.
        resample: brings them to its level.
        act: activation.
    """
    if isinstance(act, SiLU) and takes_whole_steps(shares, *inputs):
        whole: Tensor = _whole(inputs, as_row(shares), steps, resample.method, resample.same)
        return whole
    activated: Tensor = act(weighted_sum(resample.aligned(inputs, steps), shares))
    return activated


@torch.library.custom_op("densenet_suite::fused_features", mutates_args=())
def _whole(inputs: list[Tensor], shares: Tensor, steps: list[int], method: str, same: bool) -> Tensor:
    """Do what `fused_features` does."""
    sized = Resample(method, same).aligned(inputs, steps)
    return F.silu(weighted_sum(sized, shares[0]), inplace=True)


@_whole.register_fake
def _(inputs: list[Tensor], *_: object) -> Tensor:
    return torch.empty_like(inputs[0])


def weighted_sum(inputs: Sequence[Float[Tensor, "b c _ _"]], shares: Float[Tensor, " n"]) -> Float[Tensor, "b c h w"]:
    """Return the sum of inputs times shares; inputs of half the first one's size are repeated to it.

    Neither the products nor the repeated maps are made. A compiler does as well from the readable form, for which all
    inputs have one size.
    """
    if torch.compiler.is_compiling():
        return sum((x * share for x, share in zip(inputs[1:], shares[1:], strict=True)), inputs[0] * shares[0])
    total: Tensor = _WeightedSum.apply(shares, *inputs)
    return total


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shares: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(shares, *inputs)
        total = inputs[0] * shares[0]
        for x, share in zip(inputs[1:], shares[1:], strict=True):
            if x.shape == total.shape:
                total.addcmul_(x, share)
            else:
                cells = total.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [b c h 2 w 2]
                cells.addcmul_(x[:, :, :, None, :, None], share)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        shares, *inputs = ctx.saved_tensors
        of_shares, of_inputs = [], []
        wide = torch.promote_types(upstream.dtype, torch.float32)
        for x, share in zip(inputs, shares, strict=True):
            of_sum = upstream if x.shape == upstream.shape else F.avg_pool2d(upstream, 2, divisor_override=1)
            of_inputs.append(of_sum * share)
            if ctx.needs_input_grad[0]:
                of_shares.append((of_sum * x).sum(dtype=wide))
        return torch.stack(of_shares).to(shares.dtype) if of_shares else None, *of_inputs
