"""`models list` and `models info`: what can be built by name, and how large it is."""

from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from densenet_suite.backbones.variants import check_backbone_name, efficientnet_spec, list_backbones
from densenet_suite.detection.variants import DETECTORS, list_detectors
from densenet_suite.errors import ConfigError
from densenet_suite.registry import did_you_mean
from densenet_suite.segmentation.variants import DECODERS, list_decoders

_SEGMENTER_BACKBONE = "efficientnet_b0"  # that numbers of decoders are shown with
_SEGMENTER_SIZE = 512


def list_models(pattern: str = "*") -> dict[str, list[str]]:
    """Return the names of detectors, decoders and backbones that match a shell pattern. Imports no torch."""
    backbones = list_backbones(pattern)
    if not pattern.startswith("timm/"):  # timm's thousand are listed when they are asked for
        backbones = [name for name in backbones if not fnmatchcase(name, "timm/*")]
    return {"detectors": list_detectors(pattern), "decoders": list_decoders(pattern), "backbones": backbones}


def model_info(name: str) -> dict[str, Any]:
    """Return the numbers of a detector, a decoder or a backbone: table, parameters, multiply-accumulates, levels.

    A decoder is shown on an EfficientNet-B0. The network is built without data, so this takes seconds for any size.

    Raises:
        ConfigError: no such name.
    """
    if name in DETECTORS:
        return _detector(name)
    if name in DECODERS:
        return _segmenter(name)
    try:
        check_backbone_name(name)
    except ConfigError as error:
        hint = did_you_mean(name, [*DETECTORS, *DECODERS, *list_backbones("*efficientnet*")]) or error.problems[0].hint
        raise ConfigError(f"unknown model {name!r}", hint=hint) from None
    return _backbone(name)


def _backbone(name: str) -> dict[str, Any]:
    import torch

    from densenet_suite.backbones.build import cost, create_backbone

    with torch.device("meta"):
        backbone = create_backbone(name)
    spec = efficientnet_spec(name)
    size = spec.resolution if spec else 224
    counted = cost(backbone, size)
    scale: Mapping[str, Any] = {"width": spec.width, "depth": spec.depth, "resolution": spec.resolution} if spec else {}
    return {
        "name": name,
        "kind": "backbone",
        **scale,
        "parameters": counted.parameters,
        f"macs_at_{size}": counted.macs,
        "normalization": {"mean": backbone.normalization.mean, "std": backbone.normalization.std},
        "levels": [level._asdict() for level in backbone.levels],
    }


def _detector(name: str) -> dict[str, Any]:
    import torch

    from densenet_suite.backbones.build import count_macs
    from densenet_suite.detection.build import create_detector

    spec = DETECTORS[name]
    with torch.device("meta"):
        model = create_detector(name)
    numbers = {key: value for key, value in asdict(spec).items() if key not in ("url", "statistics", "padding_value")}
    return {
        "name": name,
        "kind": "detector",
        **numbers,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        f"macs_at_{spec.size}": count_macs(model, 3, spec.size),
        "weights": spec.url,
    }


def _segmenter(name: str) -> dict[str, Any]:
    import torch

    from densenet_suite.backbones.build import count_macs
    from densenet_suite.segmentation.build import create_segmenter

    with torch.device("meta"):
        model = create_segmenter(name, num_classes=2, backbone=_SEGMENTER_BACKBONE)
    return {
        "name": name,
        "kind": "decoder",
        **{key: value for key, value in asdict(DECODERS[name]).items() if key != "name"},
        "backbone": _SEGMENTER_BACKBONE,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        f"macs_at_{_SEGMENTER_SIZE}": count_macs(model, 3, _SEGMENTER_SIZE),
    }
