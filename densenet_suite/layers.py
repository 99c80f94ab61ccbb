"""Convolution blocks that backbones and necks share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": partial(nn.SiLU, inplace=True),
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


def pad_same(x: Float[Tensor, "b c h w"], kernel: int, value: float = 0.0) -> Float[Tensor, "b c h2 w2"]:
    """Pad as TensorFlow's SAME does before an odd kernel of stride 2: on even sizes the extra pixel is at the end.

    The general formula rounds up with a division of sizes, which takes torch.export minutes to reason about for a
    whole network; for odd kernels and stride 2 it is exactly (p - 1 + n % 2, p) with p = (kernel - 1) // 2.
    """
    p = (kernel - 1) // 2
    height, width = x.shape[-2:]
    return F.pad(x, (p - 1 + width % 2, p, p - 1 + height % 2, p), value=value)


class Conv2d(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) cells; `same` chooses TensorFlow's side for the padding."""

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
        self.pads_same = same and stride == 2 and kernel > 1  # with stride 1 the two paddings are equal
        padding = 0 if self.pads_same else (kernel - 1) // 2
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Convolve."""
        return super().forward(pad_same(x, self.kernel_size[0]) if self.pads_same else x)


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation, activation (None: none)."""

    def __init__(self, conv: nn.Module, norm: nn.Module, act: str | None):
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Apply the three in turn."""
        return self.act(self.norm(self.conv(x)))


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
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution and a pointwise one."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool):
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Apply the two in turn."""
        return self.pointwise(self.depthwise(x))


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
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
