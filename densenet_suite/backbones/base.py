"""What a backbone promises, and the check that it keeps the promise.

A backbone states its levels; `check_levels` runs it once on a tensor without data and compares. Nothing downstream asks
what kind of network it is.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import Normalization


class Level(NamedTuple):
    """One feature map: what a cell of it stands for in the image.

    `offset` is the pixel coordinate of the centre of the first cell's receptive field, for images of even size, so cell
    i is centred on `offset + i * stride`; `receptive_field` is its side in pixels, global gates such as
    squeeze-and-excitation apart. Both are None where they cannot be told (attention, resampling).
    """

    stride: int
    channels: int
    offset: float | None
    receptive_field: int | None


@dataclass(frozen=True)
class Receptive:
    """The pixels that the first cell of a map sees along one axis: `first` to `last`, and the next cell `stride` on."""

    stride: int = 1
    first: int = 0
    last: int = 0

    def convolution(self, kernel: int, stride: int, *, same: bool) -> Self:
        """Return the field behind an odd kernel on a map of even size."""
        before = (kernel - 1) // 2 - (1 if same and stride == 2 and kernel > 1 else 0)
        return self.window(kernel, stride, before)

    def window(self, kernel: int, stride: int, before: int, dilation: int = 1) -> Self:
        """Return the field behind a sliding window with `before` cells of padding in front."""
        first = self.first - before * self.stride
        last = self.last + ((kernel - 1) * dilation - before) * self.stride
        return replace(self, stride=self.stride * stride, first=first, last=last)

    def mirrored(self, cells: int, pixels: int) -> Self:
        """Return the field of the first cell once a row of cells is turned round, and counted from the other end."""
        first = pixels - 1 - self.last - (cells - 1) * self.stride
        return replace(self, first=first, last=first + self.size - 1)

    @property
    def offset(self) -> float:
        """The centre, in pixels."""
        return (self.first + self.last) / 2

    @property
    def size(self) -> int:
        """The number of pixels."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class BackboneCard:
    """What a model file says of its backbone; enough to build the same network again.

    `spec` is the whole table of an EfficientNet, so that the file outlives any change of the named ones.
    """

    name: str
    in_channels: int
    drop_path: float | None = None
    spec: dict[str, Any] | None = None


class Backbone(nn.Module, ABC):
    """A network from images to feature maps, fine to coarse.

    Attributes:
        levels: one entry for each map that `forward` returns; a map has ceil(size / stride) cells in each direction,
            for images of any size.
        in_channels: bands of the image.
        normalization: the pixel statistics that its weights were trained with.
        card: how `create_backbone` made it.
    """

    def __init__(self, levels: tuple[Level, ...], in_channels: int, normalization: Normalization):
        super().__init__()
        self.levels = levels
        self.in_channels = in_channels
        self.normalization = normalization
        self.card: BackboneCard | None = None

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the maps."""
        return tuple(level.channels for level in self.levels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the maps, ascending."""
        return tuple(level.stride for level in self.levels)

    @abstractmethod
    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the maps of a normalised image."""


def check_levels(backbone: Backbone) -> None:
    """Compare what a backbone states with what it does, without data and in a fraction of a second.

    Raises:
        ConfigError: a map's channels, stride, size, cell centre or receptive field is not what `levels` says.
    """
    stated = backbone.levels
    if list(backbone.strides) != sorted(set(backbone.strides)):
        raise _broken(f"strides {backbone.strides} do not ascend")
    for size in ((256, 256), (97, 130)):
        maps, fields = trace(backbone, (1, backbone.in_channels, *size))
        if len(maps) != len(stated):
            raise _broken(f"it states {len(stated)} levels and returns {len(maps)}")
        for i, (level, features) in enumerate(zip(stated, maps, strict=True)):
            promised = (level.channels, *(-(-side // level.stride) for side in size))
            if tuple(features.shape[1:]) != promised:
                raise _broken(
                    f"level {i} of a {size[0]}x{size[1]} image should be {promised} by its channels "
                    f"{level.channels} and stride {level.stride}, and is {tuple(features.shape[1:])}"
                )
        if size == (256, 256):
            _check_fields(stated, fields)


def _check_fields(stated: tuple[Level, ...], fields: list[Receptive | None]) -> None:
    for i, (level, field) in enumerate(zip(stated, fields, strict=True)):
        measured = (field.offset, field.size) if field and field.stride == level.stride else (None, None)
        claimed = (level.offset, level.receptive_field)
        if claimed != (None, None) and measured != (None, None) and claimed != measured:
            raise _broken(f"level {i} states (offset, receptive field) {claimed}, measured {measured}")


def _broken(what: str) -> ConfigError:
    return ConfigError(f"the backbone breaks its contract: {what}", hint="correct its `levels`, or its `forward`")


def trace(module: nn.Module, shape: tuple[int, ...]) -> tuple[list[Tensor], list[Receptive | None]]:
    """Run a network on a tensor without data; return its outputs (without data too) and what their cells see.

    The receptive field is followed along the width through every convolution, pooling and padding. It is None behind an
    operation that mixes all positions or changes the grid in another way.
    """
    state = {name: tensor.to("meta") for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    images = torch.empty(shape, device="meta")
    was_training = module.training
    module.eval()
    tracer = _FieldTracer(images)
    try:
        with torch.no_grad(), tracer:
            maps = torch.func.functional_call(module, state, (images,))
    finally:
        module.train(was_training)
    return maps, [tracer.field(tensor) for tensor in maps]


class _FieldTracer(TorchDispatchMode):
    """Follows the receptive field of each tensor through the operations that PyTorch dispatches."""

    MIXES_POSITIONS = (
        "bmm",
        "baddbmm",
        "_scaled_dot_product_attention",
        "upsample",
        "pixel_shuffle",
        "col2im",
    )

    def __init__(self, images: Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self._width = images.shape[-1]
        self._fields: dict[int, Receptive | None] = {id(images): Receptive()}
        self._alive = [images]  # ids are only unique among living objects

    def field(self, tensor: Tensor) -> Receptive | None:
        return self._fields.get(id(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if id(leaf) in self._fields]
        if inputs:
            field = self._apply(func.overloadpacket.__name__, args, [self._fields[id(leaf)] for leaf in inputs])
            for output in tree_leaves(result):
                if isinstance(output, Tensor) and output.ndim > 1:
                    self._fields[id(output)] = field
                    self._alive.append(output)
        return result

    def _apply(self, name: str, args: tuple[Any, ...], fields: list[Receptive | None]) -> Receptive | None:
        known = [field for field in fields if field is not None]
        if len(known) < len(fields) or name.startswith(self.MIXES_POSITIONS):
            return None
        field = known[0]
        if name == "flip":
            return field.mirrored(args[0].shape[-1], self._width) if 3 in args[1] else field
        if name == "convolution":
            _, weight, _, stride, padding, dilation, transposed = args[:7]
            return None if transposed else field.window(weight.shape[-1], stride[-1], padding[-1], dilation[-1])
        if name in ("max_pool2d_with_indices", "avg_pool2d"):
            stride = (args[2] if len(args) > 2 and args[2] else args[1])[-1]
            return field.window(args[1][-1], stride, args[3][-1] if len(args) > 3 else 0)
        if name == "constant_pad_nd":
            return field.window(1, 1, args[1][0])
        if len({other.stride for other in known}) > 1:
            return None
        return replace(field, first=min(f.first for f in known), last=max(f.last for f in known))
