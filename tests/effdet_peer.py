"""effdet's networks with random but live weights, and its outputs in our shape."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from effdet import EfficientDet, get_efficientdet_config
from effdet.anchors import Anchors
from peers import randomize
from torch import Tensor, nn


def effdet_config(name: str, size: tuple[int, int], classes: int = 90, **numbers: Any) -> Any:
    config = get_efficientdet_config(name)
    config.update({"image_size": size, "num_classes": classes, **numbers})
    return config


def effdet_model(name: str, size: tuple[int, int], classes: int = 90, **numbers: Any) -> nn.Module:
    """Return effdet's network in eval mode, with the same random weights each time; it takes images of `size` only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomize(EfficientDet(effdet_config(name, size, classes, **numbers), pretrained_backbone=False))
    if name.startswith("efficientdetv2"):  # untrained, their activations grow to thousands
        with torch.no_grad():
            for net in (model.class_net, model.box_net):
                net.predict.conv_pw.weight *= 1e-4
    return model.eval()


def effdet_resized(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Return the same network for images of another size."""
    config = effdet_config(model.config.name, size, model.config.num_classes)
    with torch.device("meta"):
        other = EfficientDet(config, pretrained_backbone=False)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def flat(levels: Sequence[Tensor], columns: int) -> Tensor:
    """Return one head's maps as [b n columns], as effdet's bench flattens them."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, columns) for level in levels], 1)


def effdet_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return class logits [b n k] and box deltas [b n 4] of normalised images."""
    with torch.no_grad():
        classes, boxes = model(images)
    return flat(classes, model.config.num_classes), flat(boxes, 4)


def effdet_anchors(model: nn.Module) -> Tensor:
    """Return effdet's anchors, which are yxyx."""
    return Anchors.from_config(model.config).boxes


def swapped(boxes: Tensor) -> Tensor:
    """Return yxyx for xyxy, and the reverse."""
    return boxes[..., [1, 0, 3, 2]]


def saved(content: Any, folder: Path) -> Path:
    path = folder / "peer.pth"
    torch.save(content, path)
    return path
