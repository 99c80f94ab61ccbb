"""EfficientDet: a backbone's features, a BiFPN, two heads.

Reference: Tan, Pang & Le, EfficientDet, arXiv:1911.09070. The network takes images of any height and width; `build`
puts it together from a name.
"""

from jaxtyping import Float, Shaped
from torch import Tensor

from densenet_suite.backbones.base import Backbone
from densenet_suite.bifpn import BiFPN
from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.heads import PRIOR_BIAS, PredictionHead
from densenet_suite.detection.packed_heads import PackedHeads, is_quicker
from densenet_suite.detection.structures import ClassTable, RawDetections
from densenet_suite.detection.variants import DetectorSpec
from densenet_suite.errors import ConfigError
from densenet_suite.fusing import Fusible
from densenet_suite.layers import Norm
from densenet_suite.preprocess import Preprocess

NORM = Norm(eps=1e-3, momentum=0.01)  # TensorFlow's


class EfficientDet(Fusible):
    """A detector from pixel values to raw detections.

    Args:
        spec: the row of numbers.
        backbone: any that has the strides of the spec's lower levels.
        preprocess: the pixel statistics of its weights.
        classes: what the detector tells apart.

    Attributes:
        strides: those of the backbone's levels in use.

    Raises:
        ConfigError: the backbone lacks a stride.
    """

    def __init__(self, spec: DetectorSpec, backbone: Backbone, preprocess: Preprocess, classes: ClassTable):
        super().__init__()
        self.spec = spec
        self.classes = classes
        self.preprocess = preprocess
        self.backbone = backbone
        self.strides = _strides_in_use(spec, backbone)
        channels = dict(zip(backbone.strides, backbone.channels, strict=True))
        self.bifpn = BiFPN(
            [channels[stride] for stride in self.strides],
            spec.channels,
            spec.levels,
            cells=spec.cells,
            fusion=spec.fusion,
            act=spec.act,
            norm=NORM,
            resample=spec.resample,
            same=spec.padding == "same",
        )
        self.class_head = self._head(len(classes), bias=PRIOR_BIAS)
        self.box_head = self._head(4, bias=0.0)
        self.packed_heads: PackedHeads | None = None  # of a fused network

    def forward(self, images: Shaped[Tensor, "b c h w"]) -> RawDetections:
        """Detect in images of pixel values (0..255 for 8 bits), any dtype, any height and width."""
        return self.detect(self.preprocess(images))

    def detect(self, images: Float[Tensor, "b c h w"]) -> RawDetections:
        """Detect in images that are normalised already."""
        pyramid = self.pyramid(images)
        sizes = [(level.shape[-2], level.shape[-1]) for level in pyramid]
        anchors = anchor_boxes(
            (images.shape[-2], images.shape[-1]),
            sizes,
            self.spec.anchor_scale,
            self.spec.aspects,
            images.device,
        )
        if self.packed_heads is not None and is_quicker(pyramid):
            logits, deltas = self.packed_heads(pyramid)
        else:
            logits, deltas = self.class_head(pyramid), self.box_head(pyramid)
        return RawDetections(logits, deltas, anchors)

    def pyramid(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return what the heads read of images that are normalised already, fine to coarse."""
        features = dict(zip(self.backbone.strides, self.backbone(images), strict=True))
        return self.bifpn([features[stride] for stride in self.strides])

    def fuse_(self) -> None:
        """Keep the heads in the form for GPUs too; the parts fuse themselves."""
        self.packed_heads = PackedHeads([self.class_head, self.box_head])

    def _head(self, outputs: int, bias: float) -> PredictionHead:
        spec = self.spec
        return PredictionHead(
            spec.channels,
            outputs,
            spec.anchors_per_cell,
            repeats=spec.repeats,
            levels=spec.levels,
            act=spec.act,
            norm=NORM,
            bias=bias,
        )


def _strides_in_use(spec: DetectorSpec, backbone: Backbone) -> tuple[int, ...]:
    used = tuple(stride for stride in spec.strides if stride in backbone.strides)
    needed = tuple(stride for stride in spec.strides if stride <= 32)
    if used[: len(needed)] != needed:
        raise ConfigError(
            f"the detector reads strides {needed}, the backbone gives {backbone.strides}",
            hint="choose a backbone with a pyramid, such as an EfficientNet, timm/resnet50 or timm/convnext_tiny",
        )
    return used
