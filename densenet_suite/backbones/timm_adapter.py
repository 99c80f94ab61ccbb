"""Any timm network with a pyramid as a backbone: "timm/<name>", with timm's optional tag.

Three things that timm leaves to its users are settled here. Taps are chosen by stride, the last of each. A network that
drops the rows that do not fill a cell gets its image padded at the bottom and right, so maps have ceil(size / stride)
cells for any size; one that has its image size built in is refused. And GhostNets are tapped behind the last block of
each stride, where timm's own list stops at the first.
"""

from itertools import product
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.models._features import FeatureListNet
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.backbones.base import Backbone, Level, trace
from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import Normalization

# what timm's transformers call "take any image size"
_ANY_SIZE: tuple[dict[str, Any], ...] = ({}, {"strict_img_size": False}, {"dynamic_img_size": True})


class TimmBackbone(Backbone):
    """A timm feature extractor under the backbone contract; `timm_backbone` finds the arguments that fit.

    Args:
        name: timm's name of the architecture; a tag after a dot names its weights.
        in_channels: bands of the input.
        drop_path: stochastic depth at the last block.
        arguments: further arguments of timm's constructor.
        padded: pad images to a multiple of the largest stride.
    """

    net: Any  # timm's feature extractors share names, but no class

    def __init__(self, name: str, in_channels: int, drop_path: float, arguments: dict[str, Any], *, padded: bool):
        super().__init__((), in_channels, pixel_statistics(name).for_bands(in_channels))
        self.name = name
        self.drop_path = drop_path
        self.net = _create(name, {"in_chans": in_channels} | arguments, drop_path)
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self._strides = tuple(int(stride) for stride in self.net.feature_info.reduction())
        self._multiple = max(self._strides) if padded else 1
        self.levels = self._measure()

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the feature maps of a normalised image, fine to coarse."""
        height, width = images.shape[-2:]
        if self._multiple > 1:
            images = F.pad(images, (0, -width % self._multiple, 0, -height % self._multiple))
        maps = self.net(images)
        if self._channels_last:
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        if self._multiple > 1:
            cells = [(-(-height // stride), -(-width // stride)) for stride in self._strides]
            maps = [features[:, :, :h, :w] for features, (h, w) in zip(maps, cells, strict=True)]
        return maps

    def _measure(self) -> tuple[Level, ...]:
        maps, fields = trace(self, (1, self.in_channels, 256, 256))
        measured = []
        for stride, features, field in zip(self._strides, maps, fields, strict=True):
            offset, size = (field.offset, field.size) if field and field.stride == stride else (None, None)
            measured.append(Level(stride, features.shape[1], offset, size))
        return tuple(measured)


def pixel_statistics(name: str) -> Normalization:
    """Return what timm normalises RGB with for the weights of this name."""
    config = timm.get_pretrained_cfg(name)
    return Normalization(tuple(config.mean), tuple(config.std))


def timm_backbone(name: str, in_channels: int = 3, drop_path: float = 0.0) -> TimmBackbone:
    """Build a timm network in the way that lets it take images of any size.

    Raises:
        ConfigError: there is no such way, or the network has no pyramid or no stochastic depth.
    """
    refusals = []
    for arguments, padded in product(_ANY_SIZE, (False, True)):
        try:
            with torch.device("meta"):
                candidate = TimmBackbone(name, in_channels, drop_path, arguments, padded=padded)
            _check_any_size(candidate)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # how timm networks refuse
            refusals.append(error)
            continue
        if len(candidate.levels) < 2:
            raise ConfigError(
                f"backbone timm/{name} has no pyramid: all of its maps have stride {candidate.strides[0]}",
                hint="choose a network whose maps get coarser, such as timm/swin_tiny_patch4_window7_224",
            )
        return TimmBackbone(name, in_channels, drop_path, arguments, padded=padded)
    if drop_path and "drop_path" in str(refusals[0]):
        raise ConfigError(f"backbone timm/{name} has no stochastic depth", hint="leave drop_path out")
    raise ConfigError(
        f"backbone timm/{name} does not work at every image size: {refusals[0]}",
        hint="choose a convolutional network, or a transformer that takes any size, such as "
        "timm/swin_tiny_patch4_window7_224",
    ) from refusals[0]


def _check_any_size(backbone: TimmBackbone) -> None:
    for size in ((97, 130), (256, 256)):
        maps, _ = trace(backbone, (1, backbone.in_channels, *size))
        for level, features in zip(backbone.levels, maps, strict=True):
            cells = tuple(-(-side // level.stride) for side in size)
            if tuple(features.shape[2:]) != cells:
                raise ValueError(
                    f"an image of {size} has {tuple(features.shape[2:])} cells at stride {level.stride}, not {cells}"
                )


def _create(name: str, arguments: dict[str, Any], drop_path: float) -> nn.Module:
    arguments = {"features_only": True, "pretrained": False, **arguments}
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    if name.startswith(("ghostnet", "repghost")):
        arguments["feature_cls"] = _ghost_features
    with torch.device("meta"):
        probe = timm.create_model(name, **arguments)
    if drop_path and not any(type(module).__name__ == "DropPath" for module in probe.modules()):
        raise TypeError("drop_path is accepted and not used")
    taps = zip(probe.feature_info.reduction(), probe.feature_info.out_indices, strict=True)
    last = tuple(sorted(dict(taps).values()))  # of equal strides the later index wins
    return timm.create_model(name, out_indices=last, **arguments)


def _ghost_features(model: Any, out_indices: tuple[int, ...] = (0, 1, 2, 3, 4), **_: Any) -> nn.Module:
    """Tap a GhostNet behind the last bottleneck of each stride; timm lists the first, and the stem without its norm."""
    last, stride = {}, 2
    for i, stage in enumerate(model.cfgs):
        stride *= stage[-1][-1]
        last[stride] = f"blocks.{i}"
    model.feature_info = [{"num_chs": 1, "reduction": stride, "module": module} for stride, module in last.items()]
    return FeatureListNet(model, out_indices=out_indices, flatten_sequential=True)
