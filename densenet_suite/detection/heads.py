"""The class and box heads: convolutions that all levels share, with batch norms that each level has for itself.

Reference: EfficientDet, arXiv:1911.09070, section 4.2 and figure 3.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densenet_suite.layers import Norm, SeparableConv, activation

# at the start every class has a probability of 1 %, so the many background anchors do not drown the rest
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)


class PredictionHead(nn.Module):
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
        return torch.cat([self._of_level(level, x) for level, x in enumerate(features)], 1)

    def _of_level(self, level: int, x: Tensor) -> Tensor:
        for conv, norms in zip(self.convs, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            x = self.act(norms[level](conv(x)))
        return self.predict(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs)


def _initialize(conv: SeparableConv, bias: float) -> None:
    for layer in (conv.depthwise, conv.pointwise):
        fan_in = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        nn.init.normal_(layer.weight, std=math.sqrt(1 / fan_in))
    if conv.pointwise.bias is not None:
        nn.init.constant_(conv.pointwise.bias, bias)
