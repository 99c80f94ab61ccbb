"""The presets: what to change, by what is on the pictures. This module needs no torch."""

from collections.abc import Mapping
from typing import Any

from densenet_suite.augment.policy import AugmentPolicy, Task
from densenet_suite.registry import did_you_mean

_COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}
_EIGHT_POSITIONS = {"flip": 0.5, "vertical_flip": 0.5, "rotate90": 1.0}

# of both tasks; sizes have another meaning in each, and each has what the other cannot do
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # nothing but crops
    "none": {},
    # few epochs from good weights
    "light": {"flip": 0.5, "brightness": 0.1, "contrast": 0.1},
    "standard": {"flip": 0.5, **_COLOURS},
    # hundreds of epochs, or little data
    "strong": {
        "flip": 0.5,
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.3,
        "hue": 0.03,
        "cutout": 0.25,
        "randaugment": 1,
        "magnitude": 4.0,
        "mosaic": 0.5,
        "copy_paste": 0.3,
        "plain_epochs": 15,
    },
    # from above there is no up; haze and compression vary
    "aerial": {
        **_EIGHT_POSITIONS,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.01,
        "blur": 0.7,
        "compression": 0.3,
    },
    # after nnU-Net (Isensee et al., arXiv:1904.08128), but for mirror images: left is not right in a body
    "medical": {"rotate": 15.0, "brightness": 0.15, "contrast": 0.25, "gamma": 0.3, "blur": 1.0, "noise": 0.1},
    # cells and tissue: no up, no straight lines, stains and focus vary
    "microscopy": {
        **_EIGHT_POSITIONS,
        "brightness": 0.15,
        "contrast": 0.2,
        "saturation": 0.1,
        "hue": 0.02,
        "gamma": 0.15,
        "blur": 0.7,
        "noise": 0.05,
    },
}
_OF_TASK: Mapping[Task, Mapping[str, Mapping[str, Any]]] = {
    "detection": {
        "light": {"scale": (0.8, 1.25)},
        "standard": {"scale": (0.5, 1.6)},
        "strong": {"scale": (0.1, 2.0), "mixup": 0.15},
        "aerial": {"scale": (0.5, 1.6)},
        "medical": {"scale": (0.8, 1.25)},
        "microscopy": {"scale": (0.6, 1.6)},
    },
    "segmentation": {
        "light": {"scale": (0.8, 1.25)},
        "standard": {"scale": (0.7, 1.4)},
        "strong": {"scale": (0.5, 2.0)},
        "aerial": {"scale": (0.7, 1.4)},
        "medical": {"scale": (0.7, 1.4), "elastic": 4.0},
        "microscopy": {"scale": (0.7, 1.4), "elastic": 4.0},
    },
}


def preset_policy(name: str, task: Task) -> AugmentPolicy:
    """Return the policy of a preset.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; {did_you_mean(name, PRESETS) or known_presets()}")
    return AugmentPolicy(preset=name, **{**PRESETS[name], **_OF_TASK[task].get(name, {})})


def known_presets() -> str:
    """Return the names as a hint."""
    return f"known are {', '.join(PRESETS)}"
