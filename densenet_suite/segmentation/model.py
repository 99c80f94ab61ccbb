"""A segmenter: a backbone's features, a decoder, a head that gives every pixel a logit for each class.

The network takes images of any height and width; `build` puts it together from names. What a decoder cannot do at every
size is done here: images are padded at the bottom and right with the mean, and logits are cropped back.
"""

from collections.abc import Sequence

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.backbones.base import Backbone
from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import Preprocess
from densenet_suite.segmentation.structures import MaskClasses
from densenet_suite.segmentation.variants import DecoderSpec, SegmenterSpec, decoder_spec


class Segmenter(nn.Module):
    """A segmenter from pixel values to logits.

    Args:
        spec: the decoder's numbers and choices.
        backbone: any that has the strides that the decoder needs.
        decoder: a module that is called with the maps in use, fine to coarse, and the height and width of the image,
            and returns its levels, finest first.
        head: logits from levels.
        preprocess: the pixel statistics of the weights.
        classes: what the segmenter tells apart.

    Attributes:
        strides: those of the backbone's maps in use.

    Raises:
        ConfigError: the backbone lacks a stride.
    """

    def __init__(
        self,
        spec: SegmenterSpec,
        backbone: Backbone,
        decoder: nn.Module,
        head: "SegmentationHead",
        preprocess: Preprocess,
        classes: MaskClasses,
    ):
        super().__init__()
        self.spec = spec
        self.row = decoder_spec(spec.decoder)
        self.strides = strides_in_use(self.row, backbone)
        self.classes = classes
        self.preprocess = preprocess
        self.backbone = backbone
        self.decoder = decoder
        self.head = head

    @property
    def stride(self) -> int:
        """What origins of tiles are multiples of, so that a pixel keeps its place in the network's grid."""
        return max(self.backbone.strides)

    def forward(self, images: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits for images of pixel values (0..255 for 8 bits), any dtype, any height and width."""
        return self.segment(self.preprocess(images))

    def segment(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits for images that are normalised already."""
        height, width = images.shape[-2:]
        logits = self.head(self._levels(images)[0])
        if self.row.stride > 1:  # whole cells are enlarged and then cropped, so that they stay where they are
            logits = F.interpolate(logits, scale_factor=float(self.row.stride), mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def deep_logits(self, images: Shaped[Tensor, "b c h w"]) -> list[Float[Tensor, "b k _ _"]]:
        """Return logits at the scales of the decoder's levels, finest first; at stride s ceil(size / s) cells.

        Without deep supervision the list holds what `forward` returns.
        """
        if not self.spec.deep_supervision:
            return [self(images)]
        height, width = images.shape[-2:]
        levels = self.head.deep(self._levels(self.preprocess(images)))
        return [logits[..., : -(-height // 2**i), : -(-width // 2**i)] for i, logits in enumerate(levels)]

    def _levels(self, images: Tensor) -> list[Tensor]:
        images = self._padded(images)
        maps = dict(zip(self.backbone.strides, self.backbone(images), strict=True))
        size = (images.shape[-2], images.shape[-1])
        levels: list[Tensor] = self.decoder([maps[stride] for stride in self.strides], size)
        return levels

    def _padded(self, images: Tensor) -> Tensor:
        """Pad at the bottom and right. Zero is the mean, as it is for the backbone's own padding."""
        height, width = images.shape[-2:]
        smallest, multiple = self.row.smallest, self.row.multiple
        if self.training and max(height, width) <= self.stride:
            smallest = max(smallest, self.stride + 1)  # batch norms cannot learn from a map of one cell
        if smallest == multiple == 1:
            return images
        room = [max(side, smallest) for side in (width, height)]
        right, bottom = (need + -need % multiple - side for need, side in zip(room, (width, height), strict=True))
        return F.pad(images, (0, right, 0, bottom))


class SegmentationHead(nn.Module):
    """A convolution from features to logits, for the finest level and, for deep supervision, the coarser ones.

    Args:
        channels: of the levels that get logits, finest first.
        classes: number of logits for each pixel.
        kernel: of the convolution at the finest level; the others have 1x1.
    """

    def __init__(self, channels: Sequence[int], classes: int, kernel: int):
        super().__init__()
        self.finest = nn.Conv2d(channels[0], classes, kernel, padding=kernel // 2)
        self.coarser = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in channels[1:])
        for layer in (self.finest, *self.coarser):
            assert isinstance(layer, nn.Conv2d)
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return the logits of the finest level."""
        return self.finest(x)

    def deep(self, levels: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b k _ _"]]:
        """Return logits of all levels."""
        others = [layer(x) for layer, x in zip(self.coarser, levels[1:], strict=True)]
        return [self.finest(levels[0]), *others]


def strides_in_use(row: DecoderSpec, backbone: Backbone) -> tuple[int, ...]:
    """Return the strides of the backbone's maps that a decoder reads, ascending.

    Raises:
        ConfigError: one that it needs is not there.
    """
    missing = [stride for stride in row.strides if stride not in backbone.strides]
    if missing:
        raise ConfigError(
            f"decoder {row.name} needs stride {' and '.join(str(stride) for stride in missing)}, "
            f"the backbone gives {', '.join(str(stride) for stride in backbone.strides)}",
            hint="EfficientNets and timm/resnet50 have 2, 4, 8, 16 and 32, timm/convnext_tiny and "
            "timm/swin_tiny_patch4_window7_224 all but 2",
        )
    wanted = {*row.strides, *row.optional}
    return tuple(stride for stride in backbone.strides if stride in wanted)
