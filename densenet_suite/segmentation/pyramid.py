"""A light decoder: the detector's BiFPN over the backbone's maps, and the sum of its levels.

References: EfficientDet, arXiv:1911.09070, section 3; Kirillov et al., Panoptic Feature Pyramid Networks,
arXiv:1901.02446, section 3.1 and figure 3. Simpler than there: BiFPN has mixed the levels already, so they are enlarged
without convolutions of their own, and one separable convolution follows the sum.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.bifpn import BiFPN
from densenet_suite.layers import ConvNormAct, Norm, SeparableConv

_CELLS = 3  # EfficientDet-D0's
_NORM = Norm(eps=1e-3, momentum=0.01)


class BiFPNDecoder(nn.Module):
    """The decoder.

    Args:
        in_channels: channels of the backbone's maps, fine to coarse.
        channels: of the pyramid and of the output, which is as large as the finest map.

    Attributes:
        channels: of the one level that it gives.
    """

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.channels = (channels,)
        self.bifpn = BiFPN(
            in_channels,
            channels,
            len(in_channels),
            cells=_CELLS,
            fusion="fast",
            act="silu",
            norm=_NORM,
            resample="nearest",
            same=False,
        )
        self.mix = ConvNormAct(SeparableConv(channels, channels, bias=False), _NORM(channels), "silu")

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]], size: tuple[int, int]
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the output for the backbone's maps, fine to coarse; the size of the image is not needed."""
        *finer, total = self.bifpn(features)
        for level in reversed(finer):  # whole cells are doubled and then cropped, so that they stay where they are
            height, width = level.shape[-2:]
            doubled = F.interpolate(total, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = level + doubled[..., :height, :width]
        return [self.mix(total)]
