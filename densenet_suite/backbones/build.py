"""`create_backbone`: the one place that knows every kind of backbone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from densenet_suite.backbones.bands import check_bands
from densenet_suite.backbones.base import Backbone, BackboneCard, check_levels
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.published import fetch_imagenet
from densenet_suite.backbones.scaling import EfficientNetSpec
from densenet_suite.backbones.timm_adapter import TimmBackbone, pixel_statistics, timm_backbone
from densenet_suite.backbones.variants import CUSTOM, check_backbone_name, efficientnet_spec
from densenet_suite.backbones.weights import (
    WeightSource,
    load_efficientnet,
    load_timm,
    read_source,
    recognize,
    spec_for,
)
from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import RGB, Normalization
from densenet_suite.weightfiles import LoadReport, read_tensors

logger = logging.getLogger(__name__)


def create_backbone(
    name: str,
    in_channels: int = 3,
    weights: str | Path | None = None,
    *,
    bands: Sequence[str] | None = None,
    drop_path: float | None = None,
    checkpointing: bool = False,
) -> Backbone:
    """Create a backbone by name and check its contract.

    Args:
        name: a published variant ("efficientnet_b3"), a scaled family ("efficientnet(phi=-1)"), a timm network
            ("timm/resnet50"), or what `register_backbone` registered.
        in_channels: bands of the images.
        weights: a file of timm, torchvision, lukemelas, smp, Keras or ours, recognised by its content; "imagenet" to
            fetch the published ones; None to start from random ones.
        bands: what each input band is taken for when RGB weights meet other bands: "red", "green", "blue", "grey" or
            "new". By default one or two bands are grey, and of four and more the first three are RGB.
        drop_path: stochastic depth at the last block; None for the published rate (0.2 for EfficientNets, 0 for timm).
        checkpointing: keep less memory for the backward pass and compute the blocks again (EfficientNets).

    Raises:
        ConfigError: no such name, weights that do not fit, or an option that the network does not have.
    """
    check_backbone_name(name)
    if in_channels < 1:
        raise ConfigError(f"in_channels is {in_channels}, a network needs at least 1")
    if bands is not None:
        check_bands(bands, in_channels)
    if drop_path is not None and not 0 <= drop_path < 1:
        raise ConfigError(f"drop_path is {drop_path}, the share of dropped images is from 0 to below 1")
    spec = efficientnet_spec(name)
    if checkpointing and spec is None:
        raise ConfigError(f"backbone {name} cannot checkpoint its activations", hint="EfficientNets can")
    if spec is not None:
        backbone, report = _efficientnet(name, spec, in_channels, weights, bands, drop_path, checkpointing)
    elif name.startswith("timm/"):
        backbone, report = _timm(name.removeprefix("timm/"), in_channels, weights, bands, drop_path)
    else:
        if weights is not None:
            raise ConfigError(f"backbone {name} is registered by a factory, which loads its own weights")
        backbone, report = CUSTOM[name](in_channels=in_channels, drop_path=drop_path), None
    check_levels(backbone)
    if report is not None:
        logger.info("%s", report)
    table = backbone.spec.to_dict() if isinstance(backbone, EfficientNet) else None
    backbone.card = BackboneCard(name, in_channels, drop_path, table)
    return backbone


def rebuild_backbone(card: BackboneCard, *, checkpointing: bool = False) -> Backbone:
    """Build the network that a card describes, with random weights."""
    if card.spec is None:
        return create_backbone(card.name, card.in_channels, drop_path=card.drop_path)
    backbone = EfficientNet(EfficientNetSpec.from_dict(card.spec), card.in_channels, checkpointing=checkpointing)
    backbone.card = card
    return backbone


def _efficientnet(
    name: str,
    spec: EfficientNetSpec,
    in_channels: int,
    weights: str | Path | None,
    bands: Sequence[str] | None,
    drop_path: float | None,
    checkpointing: bool,
) -> tuple[Backbone, LoadReport | None]:
    if drop_path is not None:
        spec = replace(spec, drop_path=drop_path)
    source: WeightSource | None = None
    adapted = []
    if weights == "imagenet":
        tensors, where, normalization = fetch_imagenet(name)
        source = recognize(tensors, where)
        spec = replace(spec, mean=normalization.mean, std=normalization.std)
    elif weights is not None:
        source = read_source(weights)
    if source is not None:
        asked, spec = spec, spec_for(spec, source)
        if (asked.padding, asked.bn_eps) != (spec.padding, spec.bn_eps):
            adapted.append(
                f"padding {asked.padding} to {spec.padding} and BN epsilon {asked.bn_eps} to {spec.bn_eps}, "
                "which belong to the weights"
            )
    backbone = EfficientNet(spec, in_channels, checkpointing=checkpointing)
    if bands is not None:
        backbone.normalization = Normalization(spec.mean, spec.std).for_bands(bands)
    if source is None:
        return backbone, None
    report = load_efficientnet(backbone, source, bands)
    report.adapted.extend(adapted)
    return backbone, report


def _timm(
    name: str,
    in_channels: int,
    weights: str | Path | None,
    bands: Sequence[str] | None,
    drop_path: float | None,
) -> tuple[Backbone, LoadReport | None]:
    backbone: TimmBackbone = timm_backbone(name, in_channels, drop_path or 0.0)
    if bands is not None:
        backbone.normalization = pixel_statistics(name).for_bands(bands)
    if weights is None:
        return backbone, None
    if in_channels == 3 and tuple(bands or RGB) != RGB:
        raise ConfigError(
            f"bands {tuple(bands or ())} would reorder the first layer of timm/{name}, which only EfficientNets can",
            hint="reorder the bands of the images, or leave bands out",
        )
    if weights == "imagenet":
        tensors, where, normalization = fetch_imagenet(name)
        backbone.normalization = normalization.for_bands(bands or in_channels)
        return backbone, load_timm(backbone, tensors, where, bands)
    return backbone, load_timm(backbone, read_tensors(weights), str(weights), bands)


@dataclass(frozen=True)
class Cost:
    """Size of a backbone: parameters, and multiply-accumulates of convolutions and linear layers for one image."""

    parameters: int
    macs: int
    size: int


def cost(backbone: Backbone, size: int = 224) -> Cost:
    """Count for a square image."""
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    return Cost(parameters, count_macs(backbone, backbone.in_channels, size), size)


def count_macs(network: nn.Module, in_channels: int, size: int) -> int:
    """Return the multiply-accumulates of a network for one square image; it runs on tensors without data."""
    state = {name: tensor.to("meta") for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    image = torch.empty(1, in_channels, size, size, device="meta")
    was_training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(network, state, (image,))
    network.train(was_training)
    return int(counter.get_total_flops() // 2)
