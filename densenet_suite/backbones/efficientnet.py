"""The EfficientNet family as a feature pyramid: V1, Lite, EdgeTPU, CondConv and V2, built from one table.

References: Tan & Le, EfficientNet, arXiv:1905.11946; EfficientNetV2, arXiv:2104.00298; Yang et al., CondConv,
arXiv:1904.04971. The classifier's head is left out: detectors and segmenters read the stages. Parameters are named by
role (stem, stages, expand, depthwise, se, project), and `weights` maps other schemes to these names.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from densenet_suite.backbones.base import Backbone, Level, Receptive
from densenet_suite.backbones.gated_conv import GatedConv
from densenet_suite.backbones.scaling import Block, EfficientNetSpec
from densenet_suite.fusing import Fusible
from densenet_suite.layers import Conv2d, ConvNormAct, Norm, SqueezeExcite, activation, recompute
from densenet_suite.norm_act import norm_act
from densenet_suite.preprocess import Normalization


class EfficientNet(Backbone):
    """Feature maps of strides 2, 4, 8, 16, 32: the last block of each, unless the table says others.

    Args:
        spec: the table; `scaling` and `variants` make them.
        in_channels: bands of the input.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again. Gradients and
            batch-norm statistics are those of a run without it.
    """

    def __init__(self, spec: EfficientNetSpec, in_channels: int = 3, *, checkpointing: bool = False):
        normalization = Normalization(spec.mean, spec.std).for_bands(in_channels)
        super().__init__(_levels(spec), in_channels, normalization)
        self.spec = spec
        self.checkpointing = checkpointing
        same, norm = spec.padding == "same", Norm(spec.bn_eps, spec.bn_momentum)
        stem = Conv2d(in_channels, spec.stem_channels, 3, stride=2, same=same)
        self.stem = ConvNormAct(stem, norm(spec.stem_channels), spec.act)
        self.stages = nn.ModuleList(
            nn.Sequential(*(MBConv(block, spec.act, norm, same=same) for block in stage)) for stage in spec.blocks()
        )
        self._taps = frozenset(spec.block_taps())
        self.apply(_initialize)

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the feature maps of a normalised image, fine to coarse; level l has ceil(size / stride) cells."""
        same = self.spec.padding == "same"  # then all layers take rotated maps: see Conv2d
        x = self.stem(images.flip((2, 3)) if same else images)
        features = [x] if 0 in self._taps else []
        for i, block in enumerate((block for stage in self.stages for block in stage.children()), 1):
            x = recompute(block, x) if self.checkpointing and self.training else block(x)
            if i in self._taps:
                features.append(x)
        return [x.flip((2, 3)) for x in features] if same else features


class MBConv(Fusible):
    """Mobile inverted bottleneck: [expand ->] depthwise -> [se ->] project, or fused -> project, plus its input."""

    def __init__(self, block: Block, act: str, norm: Norm, *, same: bool):
        super().__init__()
        self.route = nn.Linear(block.in_channels, block.experts) if block.experts else None
        self.drop_path = StochasticDepth(block.drop_path, "row") if block.residual else None

        def unit(inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: str | None) -> nn.Module:
            if block.experts:
                conv: nn.Module = CondConv2d(
                    inputs, outputs, kernel, stride=stride, groups=groups, experts=block.experts, same=same
                )
                return RoutedConvNormAct(conv, norm(outputs), act)
            conv = Conv2d(inputs, outputs, kernel, stride=stride, groups=groups, same=same)
            return ConvNormAct(conv, norm(outputs), act)

        middle = block.middle or block.out_channels
        self.fused = self.expand = self.depthwise = self.se = self.project = None
        if block.kind == "fused":
            self.fused = unit(block.in_channels, middle, block.kernel, block.stride, 1, act)
        else:
            if block.expands:
                self.expand = unit(block.in_channels, middle, 1, 1, 1, act)
            self.depthwise = unit(middle, middle, block.kernel, block.stride, middle, act)
            if block.squeezed:
                self.se = SqueezeExcite(middle, block.squeezed, act)
        if block.middle:
            self.project = unit(middle, block.out_channels, 1, 1, 1, None)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Apply the block."""
        routing = () if self.route is None else (self.route(x.mean((2, 3))).sigmoid(),)
        y = x
        for convolution in (self.fused, self.expand, self.depthwise):
            if convolution is not None:
                y = convolution(y, *routing)
        if self.se is not None:
            y = self.se(y)
        if isinstance(self.project, GatedConv):  # in inference, where no path is dropped
            return self.project(y, x if self.drop_path is not None else None)
        if self.project is not None:
            y = self.project(y, *routing)
        return y if self.drop_path is None else x + self.drop_path(y)

    def fuse_(self) -> None:
        """Let the gate weigh the kernel behind it in place of the map."""
        if self.se is not None and isinstance(self.project, ConvNormAct):
            gated = GatedConv(self.se, self.project)
            self.se, self.project = None, gated


class CondConv2d(nn.Module):
    """A convolution whose kernel is mixed from experts, per image. Reference: arXiv:1904.04971, section 3."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int,
        groups: int,
        experts: int,
        same: bool,
    ):
        super().__init__()
        self.kernel, self.stride, self.groups, self.out_channels = kernel, stride, groups, out_channels
        self.rotates = same and kernel > 1  # see Conv2d
        self.kernel_shape = (in_channels // groups, kernel, kernel)
        self.weight = nn.Parameter(torch.empty(experts, out_channels * math.prod(self.kernel_shape)))

    def forward(self, x: Float[Tensor, "b c h w"], routing: Float[Tensor, "b e"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Mix the kernels by the routing weights and convolve each image with its own, as one grouped convolution."""
        batch = x.shape[0]
        kernels = (routing @ self.weight).view(batch * self.out_channels, *self.kernel_shape)
        if self.rotates:
            kernels = kernels.flip((2, 3))
        images_as_groups, groups = x.reshape(1, -1, *x.shape[-2:]), self.groups * batch
        y = F.conv2d(images_as_groups, kernels, None, self.stride, (self.kernel - 1) // 2, 1, groups)
        return y.view(batch, self.out_channels, *y.shape[-2:])


class RoutedConvNormAct(nn.Module):
    """ConvNormAct around a convolution that also takes routing weights."""

    def __init__(self, conv: nn.Module, norm: nn.Module, act: str | None):
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"], routing: Float[Tensor, "b e"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Apply the three in turn."""
        return norm_act(self.norm, self.act, self.conv(x, routing))


def _levels(spec: EfficientNetSpec) -> tuple[Level, ...]:
    """Follow the receptive field through the blocks; squeeze-and-excitation sees the whole image and is not counted."""
    same = spec.padding == "same"
    field = Receptive().convolution(3, 2, same=same)
    passed = [Level(field.stride, spec.stem_channels, field.offset, field.size)]
    for block in (block for stage in spec.blocks() for block in stage):
        field = field.convolution(block.kernel, block.stride, same=same)
        passed.append(Level(field.stride, block.out_channels, field.offset, field.size))
    return tuple(passed[i] for i in spec.block_taps())


def _initialize(module: nn.Module) -> None:
    """Initialise as the TensorFlow original does: N(0, sqrt(2 / fan_out)), where a depthwise kernel fans out to k*k."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, CondConv2d):
        fan_out = module.kernel**2 * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)
