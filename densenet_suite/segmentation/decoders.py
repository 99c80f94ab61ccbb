"""segmentation_models_pytorch's decoders behind our features; the only module that imports that library.

Only its decoder classes are used: each is called with a list that looks like the features of an encoder of its own. A
map that the backbone lacks or the decoder does not read is replaced by one without channels, which these classes take
for a missing skip. Backbones are not dilated, so DeepLabs read the map of stride 16 as their coarsest, PSPNet that of
stride 8 and PAN that of stride 32, as smp does with a shallower encoder or without dilation; SegFormer reads strides 4
to 32, as its paper does.

A batch norm that sees a single value of each channel, behind a global pooling in a batch of one, cannot learn from it:
there it uses its running statistics.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from jaxtyping import Float
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.errors import ConfigError
from densenet_suite.fusing import Fusible
from densenet_suite.layers import with_norm
from densenet_suite.norm_act import BatchNorm
from densenet_suite.segmentation.variants import SegmenterSpec

_ATROUS_RATES = (12, 24, 36)
_GATED = 16  # smp divides the channels by this number and rounds down


def _deeplabv3(spec: SegmenterSpec, encoder: list[int]) -> nn.Module:
    return DeepLabV3Decoder(
        encoder[-1], spec.channels[0], _ATROUS_RATES, aspp_separable=False, aspp_dropout=spec.dropout
    )


def _deeplabv3plus(spec: SegmenterSpec, encoder: list[int]) -> nn.Module:
    return DeepLabV3PlusDecoder(
        encoder,
        encoder_depth=4,
        out_channels=spec.channels[0],
        atrous_rates=_ATROUS_RATES,
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=spec.dropout,
    )


_BUILDERS: Mapping[str, Callable[[SegmenterSpec, list[int]], nn.Module]] = {
    "unetplusplus": lambda spec, encoder: UnetPlusPlusDecoder(
        encoder, spec.channels, n_blocks=len(spec.channels), attention_type=spec.attention
    ),
    "manet": lambda spec, encoder: MAnetDecoder(encoder, spec.channels, n_blocks=len(spec.channels)),
    "linknet": lambda spec, encoder: LinknetDecoder(encoder, prefinal_channels=spec.channels[0]),
    "fpn": lambda spec, encoder: FPNDecoder(
        encoder,
        pyramid_channels=spec.channels[0],
        segmentation_channels=spec.channels[1],
        dropout=spec.dropout,
    ),
    "deeplabv3": _deeplabv3,
    "deeplabv3plus": _deeplabv3plus,
    "pan": lambda spec, encoder: PANDecoder(encoder, encoder_depth=5, decoder_channels=spec.channels[0]),
    "pspnet": lambda spec, encoder: PSPDecoder(encoder, out_channels=spec.channels[0], dropout=spec.dropout),
    "upernet": lambda spec, encoder: UPerNetDecoder(encoder, decoder_channels=spec.channels[0]),
    "segformer": lambda spec, encoder: SegformerDecoder(encoder, segmentation_channels=spec.channels[0]),
}


class SmpDecoder(Fusible):
    """A decoder of segmentation_models_pytorch.

    Args:
        spec: names it.
        strides: of the backbone's maps in use, ascending.
        in_channels: their channels.

    Attributes:
        channels: of the one level that it gives.

    Raises:
        ConfigError: its gates would have no channels.
    """

    def __init__(self, spec: SegmenterSpec, strides: Sequence[int], in_channels: Sequence[int]):
        super().__init__()
        if spec.attention and min(*in_channels, *spec.channels) < _GATED:
            raise ConfigError(
                f"the gates of {spec.decoder} need maps of at least {_GATED} channels, and there are "
                f"{list(in_channels)} of the backbone and {list(spec.channels)} of the decoder",
                hint="leave attention out, or use decoder unet, whose gates take any number",
            )
        self.strides = tuple(strides)
        self.channels = (spec.channels[-1],)
        self.depth = max(strides).bit_length()  # an encoder of smp lists every power of two, from 1
        widths = dict(zip(strides, in_channels, strict=True))
        self.net = _BUILDERS[spec.decoder](spec, [widths.get(2**i, 0) for i in range(self.depth)])
        initialize_decoder(self.net)
        _steady_norms(self.net)

    def forward(
        self, features: Sequence[Float[Tensor, "b _ _ _"]], size: tuple[int, int]
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the decoder's output for the maps in use, fine to coarse, of an image of `size` (height, width)."""
        maps = dict(zip(self.strides, features, strict=True))
        coarsest = features[-1]
        pyramid = []
        for stride in (2**i for i in range(self.depth)):
            cells = [-(-side // stride) for side in size]
            pyramid.append(maps[stride] if stride in maps else coarsest.new_empty(coarsest.shape[0], 0, *cells))
        return [self.net(pyramid)]

    def fuse_(self) -> None:
        """Make norms part of the convolutions that come before them in a sequence."""
        for sequence in [module for module in self.net.modules() if isinstance(module, nn.Sequential)]:
            for i, (layer, following) in enumerate(pairwise(sequence)):
                if type(layer) is nn.Conv2d and isinstance(following, BatchNorm):
                    sequence[i], sequence[i + 1] = with_norm(layer, following), nn.Identity()


class SteadyBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that uses its running statistics where a channel has one value, of which there is no variance."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def _steady_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SteadyBatchNorm2d(child.num_features, child.eps, child.momentum))
        else:
            _steady_norms(child)
