"""BiFPN: features of all levels, mixed top-down and bottom-up, several times over.

Reference: EfficientDet, arXiv:1911.09070, section 3 and figure 3. Differs from effdet's code in that resampling follows
from the sizes of the features at hand, so one network takes images of any size, and in that convolutions in front of a
batch norm have no bias (it would have no effect; the detector's `checkpoints` folds the published ones away).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densenet_suite.feature_fusion import Resample, fused_features
from densenet_suite.fusing import Fusible
from densenet_suite.layers import Conv2d, ConvNormAct, Norm, SeparableConv, activation, with_norm
from densenet_suite.norm_act import BatchNorm

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
        resample: Resample,
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
        resample: Resample,
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
        fused = fused_features(inputs, shares.to(inputs[0].dtype), self.steps, self.resample, self.act)
        return self.norm(self.conv(fused))

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
