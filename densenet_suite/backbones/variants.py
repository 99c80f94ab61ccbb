"""The names of backbones and the tables behind them. This module needs no torch.

A name is one of three things: a published variant ("efficientnet_b3", "tf_efficientnet_lite0"), a family with a scale
("efficientnet(phi=-1.5)", "tf_efficientnetv2(width=0.5, depth=0.5)"), or a network of timm ("timm/resnet50"). The
`tf_` twin of a variant has TensorFlow's SAME padding and batch-norm epsilon, which weights ported from it need.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from densenet_suite.backbones.scaling import EfficientNetSpec, Stage
from densenet_suite.errors import ConfigError
from densenet_suite.installed import timm_names
from densenet_suite.registry import Registry, did_you_mean

# Table 1 of arXiv:1905.11946.
_V1 = (
    Stage("mbconv", 3, 1, 1, 16, 1, 0.25),
    Stage("mbconv", 3, 2, 6, 24, 2, 0.25),
    Stage("mbconv", 5, 2, 6, 40, 2, 0.25),
    Stage("mbconv", 3, 2, 6, 80, 3, 0.25),
    Stage("mbconv", 5, 1, 6, 112, 3, 0.25),
    Stage("mbconv", 5, 2, 6, 192, 4, 0.25),
    Stage("mbconv", 3, 1, 6, 320, 1, 0.25),
)
_LITE = tuple(replace(stage, squeeze=0.0) for stage in _V1)
_EDGE = (
    Stage("fused", 3, 1, 4, 24, 1),
    Stage("fused", 3, 2, 8, 32, 2),
    Stage("fused", 3, 2, 8, 48, 4),
    Stage("mbconv", 5, 2, 8, 96, 5),
    Stage("mbconv", 5, 1, 8, 144, 4),
    Stage("mbconv", 5, 2, 8, 192, 2),
)
# EfficientNetV2, arXiv:2104.00298, table 4; the B series is from google/automl.
_V2_B = (
    Stage("fused", 3, 1, 1, 16, 1),
    Stage("fused", 3, 2, 4, 32, 2),
    Stage("fused", 3, 2, 4, 48, 2),
    Stage("mbconv", 3, 2, 4, 96, 3, 0.25),
    Stage("mbconv", 3, 1, 6, 112, 5, 0.25),
    Stage("mbconv", 3, 2, 6, 192, 8, 0.25),
)
# TensorFlow's weights of these were trained on pixels scaled to -1..1, the others on ImageNet's statistics
_HALF = (0.5, 0.5, 0.5)
_TRAINED_ON_HALF = tuple(
    "efficientnet" + rest for rest in ("_lite", "_e", "_cc", "_b8", "v2_s", "v2_m", "v2_l", "v2_xl", "v2_b3")
)


def _v2(channels: tuple[int, ...], repeats: tuple[int, ...]) -> tuple[Stage, ...]:
    strides, expands = (1, 2, 2, 2, 1, 2, 1), (1, 4, 4, 4, 6, 6, 6)
    return tuple(
        Stage("fused", 3, strides[i], expands[i], channels[i], repeats[i])
        if i < 3
        else Stage("mbconv", 3, strides[i], expands[i], channels[i], repeats[i], 0.25)
        for i in range(len(channels))
    )


# width, depth, resolution of B0..B8; Lite, EdgeTPU and CondConv take the factors of the variant with their number
_B = (
    (1.0, 1.0, 224),
    (1.0, 1.1, 240),
    (1.1, 1.2, 260),
    (1.2, 1.4, 300),
    (1.4, 1.8, 380),
    (1.6, 2.2, 456),
    (1.8, 2.6, 528),
    (2.0, 3.1, 600),
    (2.2, 3.6, 672),
)
_V2_LARGE = {
    "s": ((24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15), 24, 300),
    "m": ((24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5), 24, 384),
    "l": ((32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7), 32, 384),
    "xl": ((32, 64, 96, 192, 256, 512, 640), (4, 8, 8, 16, 24, 32, 8), 32, 384),
}


def _published() -> dict[str, EfficientNetSpec]:
    specs = {}
    for i, (width, depth, resolution) in enumerate(_B):
        specs[f"efficientnet_b{i}"] = EfficientNetSpec(_V1, width, depth, resolution)
    specs["efficientnet_l2"] = EfficientNetSpec(_V1, 4.3, 5.3, 800)
    for i, resolution in enumerate((224, 240, 260, 280, 300)):
        width, depth, _ = _B[i]
        specs[f"efficientnet_lite{i}"] = EfficientNetSpec(_LITE, width, depth, resolution, act="relu6", fixed_ends=True)
    for size, i in (("s", 0), ("m", 1), ("l", 3)):
        specs[f"efficientnet_e{size}"] = EfficientNetSpec(_EDGE, *_B[i], act="relu", edge_stem=True)
    for size, i, experts in (("b0_4e", 0, 4), ("b0_8e", 0, 8), ("b1_8e", 1, 8)):
        specs[f"efficientnet_cc_{size}"] = EfficientNetSpec(_V1, *_B[i], experts=experts)
    for i, resolution in enumerate((192, 192, 208, 240)):
        width, depth, _ = _B[i]
        specs[f"efficientnetv2_b{i}"] = EfficientNetSpec(_V2_B, width, depth, resolution, round_limit=0.0)
    for size, (channels, repeats, stem, resolution) in _V2_LARGE.items():
        specs[f"efficientnetv2_{size}"] = EfficientNetSpec(_v2(channels, repeats), resolution=resolution, stem=stem)
    return specs | {f"tf_{name}": _tensorflow_twin(name, spec) for name, spec in specs.items()}


def _tensorflow_twin(name: str, spec: EfficientNetSpec) -> EfficientNetSpec:
    twin = replace(spec, padding="same", bn_eps=1e-3)
    return replace(twin, mean=_HALF, std=_HALF) if name.startswith(_TRAINED_ON_HALF) else twin


PUBLISHED = _published()

# the families that can be scaled, each as its unscaled member
FAMILIES = {
    prefix + family: PUBLISHED[prefix + base]
    for prefix in ("", "tf_")
    for family, base in (
        ("efficientnet", "efficientnet_b0"),
        ("efficientnet_lite", "efficientnet_lite0"),
        ("efficientnet_edge", "efficientnet_es"),
        ("efficientnetv2", "efficientnetv2_b0"),
    )
}

# factories that users register: called as factory(in_channels=..., drop_path=...)
CUSTOM: Registry[Callable[..., Any]] = Registry("backbone")
register_backbone = CUSTOM.register

_SCALED = re.compile(r"(?P<family>\w+)\((?P<arguments>[^()]*)\)")
_BOUNDS = {"phi": (-11.0, 11.0), "width": (0.01, 8.0), "depth": (0.01, 8.0), "resolution": (8.0, 8192.0)}
_ARGUMENT = re.compile(r"\s*(phi|width|depth|resolution)\s*=\s*(-?\d+(?:\.\d+)?)\s*")


def list_backbones(pattern: str = "*") -> list[str]:
    """Return the names of backbones that match a shell pattern; timm's are named "timm/...".

    The families of `FAMILIES` can also be scaled: "efficientnet(phi=-1)", "efficientnet(width=0.5, depth=0.5)".
    """
    names = [*PUBLISHED, *CUSTOM, *(f"timm/{name}" for name in timm_names())]
    return [name for name in names if fnmatchcase(name, pattern)]


def efficientnet_spec(name: str) -> EfficientNetSpec | None:
    """Return the table behind a published or scaled name, None for a name of another kind.

    Raises:
        ConfigError: a family with arguments that it does not take.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    match = _SCALED.fullmatch(name)
    return _scaled(name, match["family"], match["arguments"]) if match else None


def check_backbone_name(name: str) -> None:
    """Check a name without building anything.

    Raises:
        ConfigError: no such backbone; the hint is the nearest name.
    """
    if name in CUSTOM or efficientnet_spec(name) is not None:
        return
    if name.startswith("timm/"):
        names = timm_names()
        if name.removeprefix("timm/").partition(".")[0] not in names:
            raise ConfigError(
                f"unknown backbone {name!r}", hint=did_you_mean(name, (f"timm/{known}" for known in names))
            )
        return
    ours = [*PUBLISHED, *CUSTOM]
    hint = did_you_mean(name, ours) or (f"did you mean timm/{name}?" if name in timm_names() else None)
    raise ConfigError(f"unknown backbone {name!r}", hint=hint or "densenet-suite models list shows the names")


def _scaled(name: str, family: str, arguments: str) -> EfficientNetSpec:
    if family not in FAMILIES:
        raise ConfigError(
            f"unknown family {family!r} in backbone {name!r}",
            hint=did_you_mean(family, FAMILIES) or f"one of {', '.join(FAMILIES)}",
        )
    values: dict[str, Any] = {}
    for argument in arguments.split(","):
        match = _ARGUMENT.fullmatch(argument)
        if match is None or match[1] in values:
            raise ConfigError(
                f"cannot read {argument.strip()!r} in backbone {name!r}",
                hint=f"write {family}(phi=-1) or {family}(width=0.5, depth=0.5)",
            )
        values[match[1]] = float(match[2])
    for argument, value in values.items():
        low, high = _BOUNDS[argument]
        if not low <= value <= high:
            raise ConfigError(f"{argument} of backbone {name!r} is not between {low:g} and {high:g}")
    spec = FAMILIES[family]
    if "phi" in values and len(values) == 1:
        return spec.compound(values["phi"])
    if "phi" in values:
        raise ConfigError(
            f"backbone {name!r} takes either phi, or width and depth",
            hint=f"write {family}(phi=-1) or {family}(width=0.5, depth=0.5)",
        )
    resolution = int(values.pop("resolution", spec.resolution))
    return replace(spec, resolution=resolution, **values)
