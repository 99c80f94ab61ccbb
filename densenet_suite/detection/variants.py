"""The EfficientDet family as rows of numbers. This module needs no torch.

References: Tan, Pang & Le, EfficientDet, arXiv:1911.09070, table 1; google/automl for Lite, D7x and AdvProp; effdet for
the `efficientdetv2` rows. The `tf_` rows are those of the published TensorFlow weights; the others have symmetric
padding.
"""

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from densenet_suite.backbones.scaling import Padding
from densenet_suite.errors import ConfigError
from densenet_suite.registry import did_you_mean

_RELEASES = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/"
# width and height factors of the anchors' three shapes; TensorFlow rounded sqrt(2) and 1/sqrt(2)
_ROUNDED = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
_EXACT = ((1.0, 1.0), (math.sqrt(2), 1 / math.sqrt(2)), (math.sqrt(0.5), 1 / math.sqrt(0.5)))


@dataclass(frozen=True)
class DetectorSpec:
    """One EfficientDet.

    `size` is the published training size (any other works), `channels`, `cells` and `repeats` are the width and depth
    of the BiFPN and the depth of the heads. `fusion` "fast" weighs the inputs of a node, "sum" adds them. `padding` is
    that of the pooling between levels. Anchors have `anchor_scale` times the stride, in three octaves and the shapes
    `aspects` (factors of width and height).
    """

    backbone: str
    size: int
    channels: int
    cells: int
    repeats: int
    padding: Padding
    drop_path: float = 0.2
    fusion: Literal["fast", "sum"] = "fast"
    act: str = "silu"
    resample: Literal["nearest", "bilinear"] = "nearest"
    anchor_scale: float = 4.0
    aspects: tuple[tuple[float, float], ...] = _ROUNDED
    min_level: int = 3
    max_level: int = 7
    statistics: Literal["imagenet", "half"] = "imagenet"
    padding_value: int | None = None
    url: str | None = None

    def with_numbers(self, **numbers: float | None) -> Self:
        """Return the row with other `channels`, `cells`, `repeats`, `anchor_scale`, `min_level` or `max_level`.

        None leaves a number as it is.

        Raises:
            ConfigError: levels that are no pyramid.
        """
        given: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
        row = replace(self, **given)
        if not 2 <= row.min_level < row.max_level:
            raise ConfigError(
                f"levels {row.min_level} to {row.max_level} are no pyramid",
                hint="from 2, 3 or 4 to something above",
            )
        return row

    @property
    def levels(self) -> int:
        """Number of pyramid levels."""
        return self.max_level - self.min_level + 1

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the pyramid, ascending."""
        return tuple(2**level for level in range(self.min_level, self.max_level + 1))

    @property
    def anchors_per_cell(self) -> int:
        """Three octaves of each shape."""
        return 3 * len(self.aspects)


# backbone, size, channels, cells, repeats
_D = (
    ("b0", 512, 64, 3, 3),
    ("b1", 640, 88, 4, 3),
    ("b2", 768, 112, 5, 3),
    ("b3", 896, 160, 6, 4),
    ("b4", 1024, 224, 7, 4),
    ("b5", 1280, 288, 7, 4),
    ("b6", 1280, 384, 8, 5),
    ("b6", 1536, 384, 8, 5),
)
_LITE = {
    "lite0": ("lite0", 320, 64, 3, 3),
    "lite1": ("lite1", 384, 88, 4, 3),
    "lite2": ("lite2", 448, 112, 5, 3),
    "lite3": ("lite3", 512, 160, 6, 4),
    "lite3x": ("lite3", 640, 200, 6, 4),
    "lite4": ("lite4", 640, 224, 7, 4),
}
_FILES = {
    "efficientdet_d0": "efficientdet_d0-f3276ba8.pth",
    "efficientdet_d1": "efficientdet_d1-bb7e98fe.pth",
    "efficientdetv2_dt": "efficientdetv2_rw_dt_agc-ad8b8c96.pth",
    "efficientdetv2_ds": "efficientnetv2_rw_ds_agc-cf589293.pth",
    "tf_efficientdet_d0": "tf_efficientdet_d0_34-f153e0cf.pth",
    "tf_efficientdet_d1": "tf_efficientdet_d1_40-a30f94af.pth",
    "tf_efficientdet_d2": "tf_efficientdet_d2_43-8107aa99.pth",
    "tf_efficientdet_d3": "tf_efficientdet_d3_47-0b525f35.pth",
    "tf_efficientdet_d4": "tf_efficientdet_d4_49-f56376d9.pth",
    "tf_efficientdet_d5": "tf_efficientdet_d5_51-c79f9be6.pth",
    "tf_efficientdet_d6": "tf_efficientdet_d6_52-4eda3773.pth",
    "tf_efficientdet_d7": "tf_efficientdet_d7_53-6d1d7a95.pth",
    "tf_efficientdet_d7x": "tf_efficientdet_d7x-f390b87c.pth",
    "tf_efficientdet_d0_ap": "tf_efficientdet_d0_ap-d0cdbd0a.pth",
    "tf_efficientdet_d1_ap": "tf_efficientdet_d1_ap-7721d075.pth",
    "tf_efficientdet_d2_ap": "tf_efficientdet_d2_ap-a2995c19.pth",
    "tf_efficientdet_d3_ap": "tf_efficientdet_d3_ap-e4a2feab.pth",
    "tf_efficientdet_d4_ap": "tf_efficientdet_d4_ap-f601a5fc.pth",
    "tf_efficientdet_d5_ap": "tf_efficientdet_d5_ap-3673ae5d.pth",
    "tf_efficientdet_lite0": "tf_efficientdet_lite0-dfacfc78.pth",
    "tf_efficientdet_lite1": "tf_efficientdet_lite1-6dc7ab30.pth",
    "tf_efficientdet_lite2": "tf_efficientdet_lite2-86c5d55b.pth",
    "tf_efficientdet_lite3": "tf_efficientdet_lite3-506852cb.pth",
    "tf_efficientdet_lite3x": "tf_efficientdet_lite3x-8404c57b.pth",
    "tf_efficientdet_lite4": "tf_efficientdet_lite4-391ddabc.pth",
}


def _rows() -> dict[str, DetectorSpec]:
    rows: dict[str, DetectorSpec] = {}
    for i, (backbone, size, channels, cells, repeats) in enumerate(_D):
        spec = DetectorSpec(f"efficientnet_{backbone}", size, channels, cells, repeats, "symmetric")
        if i >= 6:  # the paper's note: weighted fusion is unstable in the largest
            spec = replace(spec, fusion="sum")
        rows[f"efficientdet_d{i}"] = spec
    rows["efficientdet_d7"] = replace(rows["efficientdet_d7"], anchor_scale=5.0)
    rows["efficientdet_d7x"] = replace(
        rows["efficientdet_d7"], backbone="efficientnet_b7", anchor_scale=4.0, max_level=8
    )
    for name, spec in list(rows.items()):
        rows[f"tf_{name}"] = replace(spec, backbone=f"tf_{spec.backbone}", padding="same")
    rows["efficientdet_d0"] = replace(rows["efficientdet_d0"], drop_path=0.1)
    for i in (4, 5):  # effdet left TensorFlow's pooling in these two, and their checkpoints need it
        rows[f"efficientdet_d{i}"] = replace(rows[f"efficientdet_d{i}"], padding="same")
    for name, (backbone, size, channels, cells, repeats) in _LITE.items():
        rows[f"tf_efficientdet_{name}"] = DetectorSpec(
            f"tf_efficientnet_{backbone}",
            size,
            channels,
            cells,
            repeats,
            "same",
            drop_path=0.0 if name == "lite0" else 0.2,
            fusion="sum",
            act="relu6",
            anchor_scale=4.0 if name in ("lite3", "lite4") else 3.0,
            statistics="half",
        )
    for name, backbone, size, channels, cells, repeats in (("dt", "t", 768, 128, 5, 3), ("ds", "s", 1024, 256, 7, 4)):
        spec = DetectorSpec(f"timm/efficientnetv2_rw_{backbone}", size, channels, cells, repeats, "symmetric")
        rows[f"efficientdetv2_{name}"] = replace(spec, resample="bilinear", aspects=_EXACT)
    for i in range(6):  # AdvProp weights: the same networks on other pixel statistics, padded with black
        rows[f"tf_efficientdet_d{i}_ap"] = replace(rows[f"tf_efficientdet_d{i}"], statistics="half", padding_value=0)
    return {
        name: replace(spec, url=_RELEASES + _FILES[name] if name in _FILES else None) for name, spec in rows.items()
    }


DETECTORS = _rows()


def list_detectors(pattern: str = "*") -> list[str]:
    """Return the names of detectors that match a shell pattern."""
    return [name for name in DETECTORS if fnmatchcase(name, pattern)]


def detector_spec(name: str) -> DetectorSpec:
    """Return the row of a name.

    Raises:
        ConfigError: no such detector; the hint is the nearest name.
    """
    if name not in DETECTORS:
        hint = did_you_mean(name, DETECTORS) or "densenet-suite models list shows the names"
        raise ConfigError(f"unknown detector {name!r}", hint=hint)
    return DETECTORS[name]
