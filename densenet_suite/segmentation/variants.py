"""The decoders as rows of numbers, and the choices that make a segmenter of one. This module needs no torch.

References: U-Net, arXiv:1505.04597; U-Net++, arXiv:1807.10165; MA-Net, doi:10.1109/ACCESS.2020.3025372; LinkNet,
arXiv:1707.03718; FPN, arXiv:1901.02446; DeepLabV3, arXiv:1706.05587; DeepLabV3+, arXiv:1802.02611; PAN,
arXiv:1805.10180; PSPNet, arXiv:1612.01105; UPerNet, arXiv:1807.10221; SegFormer, arXiv:2105.15203; BiFPN,
arXiv:1911.09070. Numbers are those of segmentation_models_pytorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from densenet_suite.errors import ConfigError
from densenet_suite.registry import did_you_mean

Attention = Literal["scse"]
NormName = Literal["batch", "group"]


@dataclass(frozen=True)
class DecoderSpec:
    """What a decoder reads, and its usual numbers.

    It needs maps of all `strides` and takes those of `optional` ones that the backbone has. Images are padded to a
    `multiple` of pixels, and to `smallest` at least. `stride` is that of its output, and `channels` are its widths, of
    which each decoder has its own number. The head is a convolution of `head_kernel`.
    """

    name: str
    strides: tuple[int, ...]
    stride: int
    channels: tuple[int, ...]
    head_kernel: int
    optional: tuple[int, ...] = ()
    multiple: int = 1
    smallest: int = 1
    dropout: float = 0.0
    attention: bool = False
    deep_supervision: bool = False


_ALL, _HALF = (4, 8, 16, 32), (2,)
_U = (256, 128, 64, 32, 16)
DECODERS = {
    row.name: row
    for row in (
        DecoderSpec("unet", _ALL, 1, _U, 3, _HALF, attention=True, deep_supervision=True),
        DecoderSpec("unetplusplus", _ALL, 1, _U, 3, _HALF, multiple=32, attention=True),
        DecoderSpec("manet", _ALL, 1, _U, 3, _HALF, multiple=32),
        DecoderSpec("linknet", _ALL, 1, (32,), 1, _HALF, multiple=32),
        DecoderSpec("fpn", _ALL, 4, (256, 128), 1, multiple=32, dropout=0.2),
        DecoderSpec("deeplabv3", (16,), 16, (256,), 1, dropout=0.5),
        DecoderSpec("deeplabv3plus", (4, 16), 4, (256,), 1, multiple=16, dropout=0.5),
        DecoderSpec("pan", _ALL, 4, (32,), 3, multiple=32, smallest=256),
        DecoderSpec("pspnet", (8,), 8, (512,), 3, dropout=0.2),
        DecoderSpec("upernet", _ALL, 4, (256,), 1, multiple=32),
        DecoderSpec("segformer", _ALL, 4, (256,), 1, multiple=32),
        DecoderSpec("bifpn", _ALL, 4, (64,), 1),
    )
}


def list_decoders(pattern: str = "*") -> list[str]:
    """Return the names of decoders that match a shell pattern."""
    return [name for name in DECODERS if fnmatchcase(name, pattern)]


def decoder_spec(name: str) -> DecoderSpec:
    """Return the row of a name.

    Raises:
        ConfigError: no such decoder; the hint is the nearest name.
    """
    if name not in DECODERS:
        hint = did_you_mean(name, DECODERS) or f"one of {', '.join(DECODERS)}"
        raise ConfigError(f"unknown decoder {name!r}", hint=hint)
    return DECODERS[name]


@dataclass(frozen=True)
class SegmenterSpec:
    """What decides a segmenter's function beside its backbone and its classes; `segmenter_spec` checks it."""

    decoder: str
    channels: tuple[int, ...]
    dropout: float = 0.0
    attention: Attention | None = None
    norm: NormName = "batch"
    deep_supervision: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` made, or its copy from JSON."""
        return cls(**{**values, "channels": tuple(values["channels"])})


def segmenter_spec(
    decoder: str,
    *,
    channels: Sequence[int] | None = None,
    attention: Attention | None = None,
    norm: NormName = "batch",
    deep_supervision: bool = False,
) -> SegmenterSpec:
    """Return a decoder with its usual numbers, or other `channels`, and the given choices.

    Args:
        decoder: a name of `list_decoders`.
        channels: its widths, as many as the row has; for U-Nets from the coarsest block to the finest, for FPN those of
            the pyramid and of the segmentation branches.
        attention: "scse" gates the features of each block (arXiv:1808.08127; U-Net and U-Net++).
        norm: "group" normalises each image alone, for batches of one to four (arXiv:1803.08494).
        deep_supervision: whether coarser levels give logits of their own in training (U-Net).

    Raises:
        ConfigError: no such decoder, or a choice that it does not have.
    """
    row = decoder_spec(decoder)
    widths = row.channels if channels is None else tuple(channels)
    if len(widths) != len(row.channels) or min(widths) < 1:
        raise ConfigError(
            f"decoder {decoder} has {len(row.channels)} widths, all of at least 1, and channels is {list(widths)}",
            hint=f"the usual ones are {list(row.channels)}",
        )
    if decoder == "fpn" and widths[-1] % 32:
        raise ConfigError(
            f"channels of decoder fpn end in {widths[-1]}, which is not a multiple of 32 (its norm groups)"
        )
    for asked, possible, what in (
        (attention is not None, "attention", "attention"),
        (deep_supervision, "deep_supervision", "deep supervision"),
    ):
        if asked and not getattr(row, possible):
            able = " and ".join(other.name for other in DECODERS.values() if getattr(other, possible))
            raise ConfigError(f"decoder {decoder} has no {what}", hint=f"{able} can, or leave it out")
    if attention not in (None, "scse"):
        raise ConfigError(f"unknown attention {attention!r}", hint="scse, or leave it out")
    if norm not in ("batch", "group"):
        raise ConfigError(f"unknown norm {norm!r}", hint="batch or group")
    return SegmenterSpec(decoder, widths, row.dropout, attention, norm, deep_supervision)
