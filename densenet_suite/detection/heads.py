"""The class and box heads: convolutions that all levels share, with batch norms that each level has for itself.

The last product is taken of the cells of all levels at once, as a matrix: its outcome is in the order of the anchors,
where convolutions of the levels would have to be turned round and put together.

Reference: EfficientDet, arXiv:1911.09070, section 4.2 and figure 3.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.fusing import Fusible
from densenet_suite.layers import Norm, SeparableConv, activation, with_act, with_norm
from densenet_suite.norm_act import BatchNorm, norm_act

# at the start every class has a probability of 1 %, so the many background anchors do not drown the rest
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)


class PredictionHead(Fusible):
    """One head.

    Args:
        channels: of the pyramid.
        outputs: numbers per anchor: the classes, or 4.
        anchors: per cell.
        repeats: convolutions before the prediction.
        levels: of the pyramid.
        act: activation.
        norm: of the convolutions.
        bias: of the prediction at the start.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        anchors: int,
        *,
        repeats: int,
        levels: int,
        act: str,
        norm: Norm,
        bias: float = 0.0,
    ):
        super().__init__()
        self.outputs = outputs
        self.convs = nn.ModuleList(SeparableConv(channels, channels, bias=False) for _ in range(repeats))
        self.norms = nn.ModuleList(nn.ModuleList(norm(channels) for _ in range(levels)) for _ in range(repeats))
        self.act = activation(act)
        self.predict = SeparableConv(channels, anchors * outputs, bias=True)
        for conv in (*self.convs, self.predict):
            assert isinstance(conv, SeparableConv)
            _initialize(conv, bias)

    def forward(self, features: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b n {self.outputs}"]:
        """Return the predictions of all anchors, ordered as `anchor_boxes` orders them."""
        cells = torch.cat([self._cells(level, x) for level, x in enumerate(features)], 1)
        answers = _product(cells, self.predict.pointwise)
        # one view would divide the number of cells, a formula of five levels where images have any size: a compiler
        # takes half of its time to simplify that
        return answers.unflatten(2, (-1, self.outputs)).flatten(1, 2)

    def _cells(self, level: int, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
        """Return what the last product is taken of."""
        for conv, norms in zip(self.convs, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            x = norm_act(norms[level], self.act, conv(x))
        return self.predict.depthwise(x).permute(0, 2, 3, 1).flatten(1, 2)

    def fuse_(self) -> None:
        """Make each level's norms and activations part of pointwise convolutions of its own.

        The depthwise convolutions stay shared.
        """
        for i, (conv, norms) in enumerate(zip(self.convs, self.norms, strict=True)):
            assert isinstance(conv, SeparableConv)
            assert isinstance(norms, nn.ModuleList)
            own = [norm for norm in norms if isinstance(norm, BatchNorm)]
            self.norms[i] = nn.ModuleList(with_act(with_norm(conv.pointwise, norm), self.act) for norm in own)
            self.convs[i] = conv.depthwise
        self.act = nn.Identity()


def _product(cells: Float[Tensor, "b n c"], conv: nn.Conv2d) -> Float[Tensor, "b n c2"]:
    """Return the pointwise convolution of cells.

    In inference on a CPU they are given to it as a map of one column, as its bias then is no pass of its own.
    """
    infers = not (torch.is_grad_enabled() and (cells.requires_grad or conv.weight.requires_grad))
    if infers and cells.device.type == "cpu" and not torch.compiler.is_exporting():
        as_map = cells[:, :, None].permute(0, 3, 1, 2)  # [b c n 1], channels last
        return F.conv2d(as_map, conv.weight, conv.bias).permute(0, 2, 3, 1).flatten(1, 2)
    return F.linear(cells, conv.weight.flatten(1), conv.bias)


def _initialize(conv: SeparableConv, bias: float) -> None:
    for layer in (conv.depthwise, conv.pointwise):
        fan_in = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        nn.init.normal_(layer.weight, std=math.sqrt(1 / fan_in))
    if conv.pointwise.bias is not None:
        nn.init.constant_(conv.pointwise.bias, bias)
