"""Networks of the peers with random but live weights, and ours with the same ones.

Batch norms have the statistics of what really runs through them, so that no value shrinks to a denormal number, which
a processor computes a hundred times more slowly; and a detector's scores are spread like those of a trained one.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from densenet_suite import Segmenter, create_backbone, create_detector, create_segmenter
from densenet_suite.backbones.base import Backbone
from densenet_suite.detection.boxes import box_iou
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.structures import IGNORE, RawDetections
from densenet_suite.preprocess import Normalization, Preprocess

CLASSES = 90  # of detectors, as in the published ones
MASK_CLASSES = 2
LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}
Made = TypeVar("Made")


def pixels(batch: int, size: int) -> Tensor:
    """Return random 8-bit images [b 3 h w], in the layout that decoded pictures are stacked in."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, size, size, 3), generator=generator, dtype=torch.uint8)
    return images.permute(0, 3, 1, 2)


def normalised(batch: int, size: int) -> Tensor:
    """Return the same images as a network is trained on."""
    return Preprocess(Normalization.imagenet())(pixels(batch, size)).contiguous()


def objects(batch: int, size: int, most: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return boxes [b m 4] xyxy and labels [b m] of up to `most` objects in each image, padded as a batch is."""
    generator = torch.Generator().manual_seed(0)
    boxes, labels = exactly(most, batch, size, classes, generator)
    some = torch.randint(1, most + 1, (batch, 1), generator=generator)
    labels = torch.where(torch.arange(most) < some, labels, IGNORE)
    boxes = torch.where(labels[..., None] == IGNORE, 0.0, boxes)
    return boxes[:, : some.max()], labels[:, : some.max()]


def exactly(count: int, batch: int, size: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return boxes [b m 4] xyxy and labels [b m] of `count` objects in each image."""
    centres = torch.rand(batch, count, 2, generator=generator) * size
    sides = size * 0.12 * torch.randn(batch, count, 2, generator=generator).mul(0.8).exp()
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], 2).clamp(0, size)
    return boxes, torch.randint(classes, (batch, count), generator=generator)


def outputs_of_trained(anchors: Tensor, boxes: Tensor, labels: Tensor, classes: int) -> RawDetections:
    """Return what a trained detector says of images with these objects: high logits near them, low ones elsewhere."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(labels), len(anchors), classes, generator=generator) * 0.8 - 6.5
    for image, row in (labels != IGNORE).nonzero().tolist():
        iou = box_iou(boxes[image, row][None], anchors)[0]
        near = iou > 0.3
        noise = torch.randn(int(near.sum()), generator=generator) / 2
        logits[image, near, labels[image, row]] = 10 * iou[near] - 5 + noise
    deltas = torch.randn(len(labels), len(anchors), 4, generator=generator) * 0.1
    return RawDetections(logits, deltas, anchors)


def effdet_network(name: str, size: int) -> Any:
    """Return effdet's network in evaluation, for square images of `size`, without drop path."""
    return deepcopy(_effdet_network(name, size))


@cache
def _effdet_network(name: str, size: int) -> Any:
    from effdet import EfficientDet as Theirs
    from effdet import get_efficientdet_config

    torch.manual_seed(0)
    config = get_efficientdet_config(name)
    config.update({"image_size": (size, size), "num_classes": CLASSES, "backbone_args": {"drop_path_rate": 0.0}})
    model = calibrated(Theirs(config, pretrained_backbone=False), normalised(2, size))
    with torch.no_grad():
        classes, boxes = model(normalised(1, size))
        for net, levels, spread in ((model.class_net, classes, 0.5), (model.box_net, boxes, 0.2)):
            values = torch.cat([level.flatten() for level in levels])
            net.predict.conv_pw.weight *= spread / values.std()
    return model


def our_detector(network: Any, name: str) -> EfficientDet:
    """Return our detector with the weights of effdet's, in evaluation."""
    return _with_weights(
        network.state_dict(),
        lambda path: create_detector(name, num_classes=CLASSES, weights=path, drop_path=0.0).eval(),
    )


def rows_of(levels: Sequence[Tensor], columns: int) -> Tensor:
    """Return one output of effdet's [b c h w] of each level as ours are, [b n columns]."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, columns) for level in levels], 1)


def smp_network(encoder: str, size: int) -> Any:
    """Return smp's U-Net in evaluation, without drop path."""
    return deepcopy(_smp_network(encoder, size))


@cache
def _smp_network(encoder: str, size: int) -> Any:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    model = smp.Unet(encoder, encoder_weights=None, classes=MASK_CLASSES)
    if encoder.startswith("efficientnet-"):  # of smp's own; those of timm have none unless asked for
        model.encoder._drop_connect_rate = 0.0
    return calibrated(model, normalised(2, size))


def our_segmenter(network: Any, encoder: str) -> Segmenter:
    """Return our U-Net with the weights of smp's, in evaluation."""
    backbone = encoder.removeprefix("tu-").replace("-", "_")
    return _with_weights(
        network.state_dict(),
        lambda path: create_segmenter("unet", MASK_CLASSES, backbone=backbone, weights=path, drop_path=0.0).eval(),
    )


def timm_features(name: str, size: int) -> Any:
    """Return timm's feature extractor in evaluation."""
    import timm

    torch.manual_seed(0)
    return calibrated(timm.create_model(name, features_only=True), normalised(2, size))


def our_backbone(weights: Mapping[str, Tensor], name: str) -> Backbone:
    """Return our backbone with weights of any known names, in evaluation."""
    return _with_weights(weights, lambda path: create_backbone(name, weights=path).eval())


def calibrated(model: nn.Module, images: Tensor) -> Any:
    """Give every batch norm the statistics of what these images become there; return the model in evaluation."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the statistics of the pass
        norm.reset_running_stats()
    model.train()
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def _with_weights(weights: Mapping[str, Tensor], make: Callable[[Path], Made]) -> Made:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(dict(weights), path)
        return make(path)
