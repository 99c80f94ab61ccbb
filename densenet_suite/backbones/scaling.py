"""EfficientNets as numbers: stage tables, both scalings, and the list of blocks that follows from them.

Two scalings share the tables. The published variants B0..B8 have a width and a depth factor each, found by search and
rounded by hand; the compound law (Tan & Le, arXiv:1905.11946, section 3.3) gives factors for any real phi. They are not
the same thing: no phi reproduces B1, whose width factor is 1.0. Neither keeps the cost constant: it grows as 2^phi.

This module needs no torch.
"""

import math
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any, Literal, Self

Padding = Literal["symmetric", "same"]
BASE_RESOLUTION = 224


@dataclass(frozen=True)
class Stage:
    """A row of the paper's table 1: blocks of one shape, before scaling.

    `kind` is "mbconv" (expand, depthwise, project) or "fused" (one full convolution for expand and depthwise); `expand`
    multiplies the block's input channels; `squeeze` is the squeeze-and-excitation ratio, also of the input channels
    (0: none). The stride is that of the first block.
    """

    kind: Literal["mbconv", "fused"]
    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int
    squeeze: float = 0.0


@dataclass(frozen=True)
class Block:
    """One block with every number resolved; `middle` 0 is a fused block of a single convolution."""

    kind: Literal["mbconv", "fused"]
    kernel: int
    stride: int
    in_channels: int
    middle: int
    out_channels: int
    squeezed: int
    experts: int
    residual: bool
    drop_path: float

    @property
    def expands(self) -> bool:
        """Whether a pointwise convolution widens the input first."""
        return self.kind == "mbconv" and self.middle != self.in_channels


@dataclass(frozen=True)
class EfficientNetSpec:
    """Everything that decides an EfficientNet's function, apart from its weights.

    `resolution` is the published training size, `drop_path` the published stochastic depth, reached at the last block;
    `mean` and `std` are the usual statistics of the variant's published weights. `fixed_ends` is Lite's rule: the stem
    and the first and last stage are not scaled. `edge_stem` is EdgeTPU's quirk: the first stage expands 24 scaled
    channels instead of the stem's, and has no residual. `experts` above 0 makes the last three stages CondConv.
    `tap_blocks` numbers the blocks behind which a map is taken, counted through all stages from 1 (0: the stem); empty,
    it is the last block of each stride.
    """

    stages: tuple[Stage, ...]
    width: float = 1.0
    depth: float = 1.0
    resolution: int = BASE_RESOLUTION
    stem: int = 32
    head: int = 1280
    act: str = "silu"
    padding: Padding = "symmetric"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    round_limit: float = 0.9
    fixed_ends: bool = False
    edge_stem: bool = False
    experts: int = 0
    drop_path: float = 0.2
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    tap_blocks: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote, or its copy from JSON."""
        stages = tuple(Stage(**stage) for stage in values["stages"])
        given: dict[str, Any] = {"tap_blocks": (), **values}  # files of version 0.1.0 have no taps
        plain = {name: tuple(given[name]) for name in ("mean", "std", "tap_blocks")}
        return cls(**{**given, **plain, "stages": stages})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model file."""
        return asdict(self)

    def compound(self, phi: float, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15) -> Self:
        """Scale by the compound law: depth alpha^phi, width beta^phi, resolution gamma^phi (a multiple of 8)."""
        resolution = max(8, 8 * round(BASE_RESOLUTION * gamma**phi / 8))
        return replace(self, depth=alpha**phi, width=beta**phi, resolution=resolution)

    def channels(self, unscaled: int) -> int:
        """Scale a number of channels and round it to a multiple of 8, never down by more than the round limit."""
        scaled = unscaled * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < self.round_limit * scaled else rounded

    @property
    def stem_channels(self) -> int:
        """Channels of the first convolution."""
        return self.stem if self.fixed_ends else self.channels(self.stem)

    @property
    def head_channels(self) -> int:
        """Channels of the classifier's last convolution, which the pyramid does not have."""
        return self.head if self.fixed_ends else self.channels(self.head)

    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """Return the blocks of each stage, fine to coarse."""
        repeats = [self._repeats(i) for i in range(len(self.stages))]
        total, index, channels = sum(repeats), 0, self.stem_channels
        stages = []
        for i, (stage, count) in enumerate(zip(self.stages, repeats, strict=True)):
            blocks = []
            for j in range(count):
                block = self._block(i, stage, channels, stride=stage.stride if j == 0 else 1)
                blocks.append(replace(block, drop_path=self.drop_path * index / total))
                channels, index = block.out_channels, index + 1
            stages.append(tuple(blocks))
        return tuple(stages)

    def taps(self) -> tuple[int, ...]:
        """Return the stages whose output is the last of its stride."""
        last = len(self.stages) - 1
        return tuple(i for i in range(last + 1) if i == last or self.stages[i + 1].stride == 2)

    def block_taps(self) -> tuple[int, ...]:
        """Return the numbers of the blocks behind which a map is taken, as `tap_blocks` counts them."""
        ends = tuple(accumulate(self._repeats(i) for i in range(len(self.stages))))
        return self.tap_blocks or tuple(ends[stage] for stage in self.taps())

    def _repeats(self, stage: int) -> int:
        unscaled = self.stages[stage].repeats
        if self.fixed_ends and stage in (0, len(self.stages) - 1):
            return unscaled
        return math.ceil(unscaled * self.depth)

    def _block(self, index: int, stage: Stage, in_channels: int, stride: int) -> Block:
        out_channels = self.channels(stage.channels)
        middle = in_channels * stage.expand
        if self.edge_stem and index == 0:
            middle = self.channels(24) * stage.expand
        elif stage.kind == "fused" and stage.expand == 1:
            middle = 0
        return Block(
            kind=stage.kind,
            kernel=stage.kernel,
            stride=stride,
            in_channels=in_channels,
            middle=middle,
            out_channels=out_channels,
            squeezed=max(1, int(in_channels * stage.squeeze)) if stage.squeeze else 0,
            experts=self.experts if index >= len(self.stages) - 3 else 0,
            residual=stride == 1 and in_channels == out_channels and not (self.edge_stem and index == 0),
            drop_path=0.0,
        )
