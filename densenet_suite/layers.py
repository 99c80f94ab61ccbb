"""Convolution blocks that backbones and necks share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from densenet_suite.depthwise import depthwise
from densenet_suite.expansion import expanded, is_cheaper
from densenet_suite.fusing import Fusible
from densenet_suite.norm_act import BatchNorm, SiLU, learns, norm_act
from densenet_suite.onednn import Act, convolved

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": SiLU,
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
}


def activation(name: str) -> nn.Module:
    """Return a new activation: "silu", "relu" or "relu6"."""
    return _ACTIVATIONS[name]()


@dataclass(frozen=True)
class Norm:
    """Numbers of a batch normalisation; momentum as PyTorch counts it (TensorFlow's 0.99 is 0.01)."""

    eps: float
    momentum: float

    def __call__(self, channels: int) -> nn.BatchNorm2d:
        """Build the layer."""
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


class Conv2d(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) cells.

    `same` stands for TensorFlow's SAME padding, of which an even side has its extra cell at the end when the stride is
    2. Ordinary padding of a map that is rotated by half a turn is just that, for even and odd sides: such a layer takes
    a rotated map, gives a rotated one, and rotates its kernel. Padding the map itself would be to copy it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        same: bool = False,
    ):
        super().__init__(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=bias)
        self.rotates = same and kernel > 1
        self.is_pointwise = kernel == stride == groups == 1
        self.is_depthwise = groups == in_channels == out_channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Convolve."""
        if self.is_matrix_product(x):
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        weight = self.weight.flip((2, 3)) if self.rotates else self.weight
        if self.is_depthwise and self.bias is None:  # a norm that is fused leaves one
            return depthwise(x, weight, self.stride[0])
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)

    def is_matrix_product(self, x: Float[Tensor, "b c h w"]) -> bool:
        """Whether a CPU has the cells of a map as rows of a matrix, whose product has the quicker gradients."""
        here = x.device.type == "cpu" and not torch.compiler.is_compiling()
        return self.is_pointwise and here and x.is_contiguous(memory_format=torch.channels_last)

    def keep_rotated_(self) -> None:
        """Rotate the kernel for good."""
        if self.rotates:
            self.weight, self.rotates = nn.Parameter(self.weight.flip((2, 3)), requires_grad=False), False


class ConvNormAct(Fusible):
    """Convolution, batch normalisation, activation (None: none)."""

    def __init__(self, conv: nn.Module, norm: nn.Module, act: str | None):
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Apply the three in turn."""
        conv, norm = self.conv, self.norm
        if learns(norm) and _expands(conv, self.act, x):
            return expanded(x, conv.weight, norm)
        return norm_act(norm, self.act, conv(x))

    def fuse_(self) -> None:
        """Make the norm part of the convolution, and the activation a part of that step."""
        if isinstance(self.norm, BatchNorm):
            self.conv, self.norm = with_norm(self.conv, self.norm), nn.Identity()
        self.conv, self.act = with_act(self.conv, self.act), nn.Identity()


def _expands(conv: nn.Module, act: nn.Module, x: Tensor) -> TypeGuard[Conv2d]:
    """Whether a convolution and an activation, with a norm between them that learns, are one step for a map."""
    if not isinstance(conv, Conv2d) or conv.bias is not None or not isinstance(act, SiLU):
        return False
    return conv.is_matrix_product(x) and is_cheaper(x)


class ConvAct(nn.Module):
    """A convolution and its activation in inference."""

    STEPS: ClassVar[dict[type[nn.Module], Act]] = {SiLU: "swish", nn.ReLU: "relu", nn.Identity: "none"}

    def __init__(self, conv: nn.Conv2d, act: nn.Module):
        super().__init__()
        self.conv = conv
        self.act = self.STEPS[type(act)]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Apply the two."""
        conv = self.conv
        assert not isinstance(conv.padding, str)
        return convolved(
            x, conv.weight, conv.bias, self.act, stride=conv.stride, padding=conv.padding, groups=conv.groups
        )


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate that sees the whole image.

    Reference: Hu et al., Squeeze-and-Excitation Networks, arXiv:1709.01507, section 3.
    """

    def __init__(self, channels: int, squeezed: int, act: str):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = activation(act)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Multiply each channel by its gate."""
        return x * self.gate(x)

    def gate(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        """Return what each channel is to be multiplied by, from 0 to 1."""
        return self.expand(self.act(self.reduce(pooled(x)))).sigmoid()


def pooled(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
    """Return the mean of each channel.

    By a sum: the gradient of a mean is as large as the map, and CPUs are slow at it in bfloat16.
    """
    if torch.compiler.is_exporting():
        return x.mean((2, 3), keepdim=True)  # one operator of ONNX
    return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3])


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution and a pointwise one."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool):
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Apply the two in turn."""
        return self.pointwise(self.depthwise(x))


def with_norm(conv: nn.Module, norm: BatchNorm) -> nn.Module:
    """Return a convolution, plain or separable, that computes what it and the batch norm behind it do in evaluation."""
    if not isinstance(conv, SeparableConv):
        assert isinstance(conv, nn.Conv2d)
        plain = fuse_conv_bn_eval(conv, norm)
        if isinstance(plain, Conv2d):
            plain.keep_rotated_()
        return plain
    fused = SeparableConv(conv.depthwise.in_channels, conv.pointwise.out_channels, bias=True)
    fused.depthwise, fused.pointwise = conv.depthwise, fuse_conv_bn_eval(conv.pointwise, norm)
    return fused.eval()


def with_act(conv: nn.Module, act: nn.Module) -> nn.Module:
    """Return a convolution, plain or separable, and the activation behind it as one module."""
    if isinstance(act, nn.Identity):
        return conv
    if isinstance(conv, SeparableConv):
        return nn.Sequential(conv.depthwise, with_act(conv.pointwise, act))
    assert isinstance(conv, nn.Conv2d)
    is_one_step = type(act) in ConvAct.STEPS and conv.dilation == (1, 1)
    return ConvAct(conv, act) if is_one_step else nn.Sequential(conv, act)


def recompute(block: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
    """Run a block without keeping its activations: the backward pass computes them again from `x`.

    Plain activation checkpointing updates the running statistics of batch normalisation in both passes; here the second
    one leaves them alone, so a model trains as it would without it.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _untouched_statistics(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _untouched_statistics(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
