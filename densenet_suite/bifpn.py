"""BiFPN: features of all levels, mixed top-down and bottom-up, several times over.

Reference: EfficientDet, arXiv:1911.09070, section 3 and figure 3. Differs from effdet's code in that resampling follows
from the sizes of the features at hand, so one network takes images of any size, and in that convolutions in front of a
batch norm have no bias (it would have no effect; the detector's `checkpoints` folds the published ones away).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densenet_suite.compiling import as_row, takes_whole_steps
from densenet_suite.fusing import Fusible
from densenet_suite.layers import Conv2d, ConvNormAct, Norm, SeparableConv, activation, with_norm
from densenet_suite.norm_act import BatchNorm, SiLU

_FUSION_EPSILON = 1e-4


class Node(NamedTuple):
    """A node of the graph: the level of its output, and the nodes that it fuses, by number.

    The inputs of a cell have the numbers 0 to levels - 1, its nodes the following ones.
    """

    level: int
    inputs: tuple[int, ...]


def bifpn_graph(levels: int) -> tuple[Node, ...]:
    """Return the nodes of one cell in the order of computation: top-down, then bottom-up (figure 3 of the paper)."""
    of_level = [[level] for level in range(levels)]
    nodes = []

    def add(level: int, inputs: tuple[int, ...]) -> None:
        nodes.append(Node(level, inputs))
        of_level[level].append(levels + len(nodes) - 1)

    for level in range(levels - 2, -1, -1):
        add(level, (of_level[level][-1], of_level[level + 1][-1]))
    for level in range(1, levels):
        add(level, (*of_level[level], of_level[level - 1][-1]))
    return tuple(nodes)


class BiFPN(nn.Module):
    """The whole neck: coarser levels than the backbone's, then a chain of cells.

    Args:
        in_channels: channels of the backbone's levels that are used, fine to coarse.
        channels: channels of every output.
        levels: number of outputs; levels that the backbone lacks are pooled from its last.
        cells: number of cells.
        fusion: "fast" weighs inputs by relu(w) / sum (section 3.3), "sum" adds them.
        act: activation.
        norm: of every convolution.
        resample: "nearest" pools the maximum downwards and repeats upwards; "bilinear" interpolates both ways.
        same: pool with TensorFlow's padding.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        levels: int,
        *,
        cells: int,
        fusion: Literal["fast", "sum"],
        act: str,
        norm: Norm,
        resample: Literal["nearest", "bilinear"],
        same: bool,
    ):
        super().__init__()
        self.extra_levels = levels - len(in_channels)
        self.resample = Resample(resample, same=same)
        widths = list(in_channels)
        self.extra: nn.Module = nn.Identity()  # makes the first extra level; those above are only pooled
        if self.extra_levels > 0:
            if widths[-1] != channels:
                self.extra = _lateral(widths[-1], channels, norm)
            widths += [channels] * self.extra_levels
        self.cells = nn.ModuleList()
        for _ in range(cells):
            self.cells.append(BiFPNCell(widths, channels, fusion, act, norm, self.resample))
            widths = [channels] * levels

    def forward(self, features: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the mixed features of all levels, fine to coarse."""
        pyramid = list(features)
        for i in range(self.extra_levels):
            above = self.extra(pyramid[-1]) if i == 0 else pyramid[-1]
            height, width = above.shape[-2:]
            pyramid.append(self.resample.down(above, ((height + 1) // 2, (width + 1) // 2)))
        for cell in self.cells:
            pyramid = cell(pyramid)
        return pyramid


class BiFPNCell(nn.Module):
    """One pass over the pyramid, top-down and bottom-up."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        fusion: Literal["fast", "sum"],
        act: str,
        norm: Norm,
        resample: "Resample",
    ):
        super().__init__()
        levels = len(in_channels)
        self.graph = bifpn_graph(levels)
        level_of = [*range(levels), *(node.level for node in self.graph)]
        self.nodes = nn.ModuleList()
        for node in self.graph:
            steps = [level_of[source] - node.level for source in node.inputs]
            self.nodes.append(FusionNode(steps, channels, fusion, act, norm, resample))
        # every node that reads the backbone has a projection of its own, also where two read the same level
        self.laterals = nn.ModuleDict(
            {
                f"{i}_{source}": _lateral(in_channels[source], channels, norm)
                for i, node in enumerate(self.graph)
                for source in node.inputs
                if source < len(in_channels) and in_channels[source] != channels
            }
        )

    def forward(self, pyramid: list[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the mixed levels."""
        shares = fusion_shares([node for node in self.nodes if isinstance(node, FusionNode)])
        outputs = list(pyramid)
        for i, (node, fuse, share) in enumerate(zip(self.graph, self.nodes, shares, strict=True)):
            outputs.append(fuse([self._projected(outputs[source], i, source) for source in node.inputs], share))
        # the last node of each level: the finest is the end of the top-down path, the others follow it upwards
        return outputs[-len(pyramid) :]

    def _projected(self, x: Float[Tensor, "b _ h w"], node: int, source: int) -> Float[Tensor, "b c h w"]:
        lateral = f"{node}_{source}"
        return self.laterals[lateral](x) if lateral in self.laterals else x


class FusionNode(Fusible):
    """Weighs and adds features of neighbouring levels, then mixes them by a separable convolution.

    Args:
        steps: by how many levels each input is coarser than the node; the first is of the node's own level.
        channels: of the inputs and the output.
        fusion: as in `BiFPN`.
        act: activation.
        norm: of the convolution.
        resample: brings inputs to the node's level.
    """

    def __init__(
        self,
        steps: Sequence[int],
        channels: int,
        fusion: Literal["fast", "sum"],
        act: str,
        norm: Norm,
        resample: "Resample",
    ):
        super().__init__()
        self.steps = list(steps)
        self.resample = resample
        self.weights = nn.Parameter(torch.ones(len(steps))) if fusion == "fast" else None
        self.fixed_shares: Tensor
        self.register_buffer("fixed_shares", torch.ones(len(steps)), persistent=False)  # where there are no weights
        self.act = activation(act)
        self.conv: nn.Module = SeparableConv(channels, channels, bias=False)
        self.norm: nn.Module = norm(channels)
        for layer in (self.conv.depthwise, self.conv.pointwise):
            _glorot_uniform(layer)

    def forward(self, inputs: list[Float[Tensor, "b c _ _"]], shares: Float[Tensor, " n"]) -> Float[Tensor, "b c h w"]:
        """Fuse inputs by their shares."""
        return self.norm(self.conv(self._fused(inputs, shares.to(inputs[0].dtype))))

    def _fused(self, inputs: list[Tensor], shares: Tensor) -> Tensor:
        if isinstance(self.act, SiLU) and takes_whole_steps(shares, *inputs):
            resample = self.resample
            fused: Tensor = _fused_features(inputs, as_row(shares), self.steps, resample.method, resample.same)
            return fused
        activated: Tensor = self.act(weighted_sum(self.resample.all(inputs, self.steps), shares))
        return activated

    def fuse_(self) -> None:
        """Normalise the weights, and make the norm part of the convolution."""
        (self.fixed_shares,), self.weights = fusion_shares([self]), None
        assert isinstance(self.norm, BatchNorm)
        self.conv, self.norm = with_norm(self.conv, self.norm), nn.Identity()


def fusion_shares(nodes: Sequence[FusionNode]) -> list[Float[Tensor, " _"]]:
    """Return what each node multiplies its inputs by: those of as many inputs at once, as each is but a few numbers.

    They are of float32 at least, so that half precision cannot overflow.
    """
    shares = [node.fixed_shares for node in nodes]
    learned = {i: node.weights for i, node in enumerate(nodes) if node.weights is not None}
    for inputs in sorted({len(weights) for weights in learned.values()}):
        places = [i for i, weights in learned.items() if len(weights) == inputs]
        weights = torch.stack([learned[i] for i in places])
        positive = weights.to(torch.promote_types(weights.dtype, torch.float32)).relu()
        rows = positive / (positive.sum(1, keepdim=True) + _FUSION_EPSILON)
        for i, row in zip(places, rows.unbind(), strict=True):
            shares[i] = row
    return shares


@dataclass(frozen=True)
class Resample:
    """Features to the size of a neighbouring level, down or up: see `BiFPN`."""

    method: str
    same: bool

    def all(self, inputs: Sequence[Float[Tensor, "b c _ _"]], steps: Sequence[int]) -> list[Float[Tensor, "b c _ _"]]:
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


@torch.library.custom_op("densenet_suite::fused_features", mutates_args=())
def _fused_features(inputs: list[Tensor], shares: Tensor, steps: list[int], method: str, same: bool) -> Tensor:
    """Resample, weigh, add and activate."""
    sized = Resample(method, same).all(inputs, steps)
    return F.silu(weighted_sum(sized, shares[0]), inplace=True)


@_fused_features.register_fake
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


def _lateral(in_channels: int, channels: int, norm: Norm) -> ConvNormAct:
    conv = Conv2d(in_channels, channels, 1)
    _glorot_uniform(conv)
    return ConvNormAct(conv, norm(channels), None)


def _glorot_uniform(conv: nn.Conv2d) -> None:
    """Initialise as the original does: uniform, by the mean of fan in and fan out, counting a depthwise kernel as 9."""
    kernel = conv.kernel_size[0] * conv.kernel_size[1]
    fan_in = conv.in_channels // conv.groups * kernel
    fan_out = conv.out_channels * kernel // conv.groups
    limit = math.sqrt(3 / ((fan_in + fan_out) / 2))
    nn.init.uniform_(conv.weight, -limit, limit)
