"""Backbones of other libraries with random but live weights, and their features beside ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from peers import apart, randomize
from torch import Tensor, nn

from densenet_suite.backbones.variants import PUBLISHED

SIZE = (97, 130)
# timm knows V2's B series with TensorFlow's padding and epsilon only; the other twin is the same class without them
_UNTWINNED = {f"efficientnetv2_b{i}": f"tf_efficientnetv2_b{i}" for i in range(4)}


def timm_features(name: str, **arguments: Any) -> nn.Module:
    """Return timm's feature extractor for a published variant of ours, as timm makes it."""
    if name in _UNTWINNED:
        name, arguments = _UNTWINNED[name], {"pad_type": "", "bn_eps": 1e-5, **arguments}
    return timm.create_model(name, features_only=True, **arguments)


def live_timm_features(name: str, **arguments: Any) -> nn.Module:
    return randomize(timm_features(name, **arguments))


def stage_outputs(stem: nn.Module, stages: Sequence[nn.Module], images: Tensor, name: str) -> list[Tensor]:
    """Run a peer's stages in turn and return what follows the last block of each stride."""
    taps, maps = PUBLISHED[name].taps(), []
    x = stem(images)
    for i, stage in enumerate(stages):
        x = stage(x)
        maps += [x] * (i in taps)
    return maps


def saved(tensors: Mapping[str, Any], folder: Path) -> Path:
    path = folder / "peer.pth"
    torch.save(dict(tensors), path)
    return path


def farthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest relative difference over all maps; the peer's must be alive."""
    assert all(theirs_map.std() > 1e-3 for theirs_map in theirs)
    return max(apart(own.detach(), peer.detach()) for own, peer in zip(ours, theirs, strict=True))
