"""`create_detector`: the one place that knows all parts of a detector; and its card for model files."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from densenet_suite.backbones.base import Backbone, BackboneCard
from densenet_suite.backbones.build import create_backbone, rebuild_backbone
from densenet_suite.backbones.variants import check_backbone_name
from densenet_suite.detection.checkpoints import DetectorFile, load_detector, open_detector
from densenet_suite.detection.coco import COCO_IDS, COCO_NAMES, COCO_ROWS
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.variants import DETECTORS, DetectorSpec, detector_spec
from densenet_suite.errors import ConfigError
from densenet_suite.modelfile import model_file, write_model_file
from densenet_suite.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalization, Preprocess

logger = logging.getLogger(__name__)

_STATISTICS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}


def create_detector(
    name: str | DetectorSpec,
    num_classes: int | None = None,
    *,
    classes: ClassTable | Sequence[str] | None = None,
    backbone: str | None = None,
    in_channels: int = 3,
    weights: str | Path | None = None,
    bands: Sequence[str] | None = None,
    drop_path: float | None = None,
    checkpointing: bool = False,
) -> EfficientDet:
    """Create an EfficientDet.

    Args:
        name: a row of the family ("efficientdet_d0", "tf_efficientdet_lite0"), or a row of one's own.
        num_classes: how many classes it tells apart, where their names do not matter.
        classes: their names, which travel with the model, or the class table of a dataset. By default COCO's 80.
        backbone: another than the row's: any name of `list_backbones` with strides 8, 16 and 32.
        in_channels: bands of the images.
        weights: "coco" to fetch the published detector, "imagenet" to fetch the backbone's weights, a path (a detector
            of effdet or ours, or a backbone of any known kind; recognised by its content), or None.
        bands: what input bands are taken for when RGB weights meet others, as in `create_backbone`.
        drop_path: stochastic depth of the backbone; None for the row's.
        checkpointing: keep less memory for the backward pass and compute the backbone's blocks again.

    Raises:
        ConfigError: an unknown name, classes that contradict each other, or weights that do not fit.
    """
    spec = detector_spec(name) if isinstance(name, str) else name
    check_backbone_name(backbone or spec.backbone)
    table = _class_table(num_classes, classes)
    if drop_path is None and backbone is None:
        drop_path = spec.drop_path
    file = _open(spec, weights)
    trunk = create_backbone(
        backbone or spec.backbone,
        in_channels,
        None if file else weights,
        bands=bands,
        drop_path=drop_path,
        checkpointing=checkpointing,
    )
    swapped = backbone is not None or weights is not None
    model = EfficientDet(spec, trunk, Preprocess(_normalization(spec, trunk, file, bands, swapped=swapped)), table)
    if file is not None:
        logger.info("%s", load_detector(model, file, bands))
    return model


def _class_table(num_classes: int | None, classes: ClassTable | Sequence[str] | None) -> ClassTable:
    if classes is not None:
        table = classes if isinstance(classes, ClassTable) else ClassTable.numbered(classes)
        if num_classes not in (None, len(table)):
            raise ConfigError(f"num_classes is {num_classes}, and {len(table)} classes are named")
        return table
    if num_classes is None or num_classes == len(COCO_NAMES):
        return ClassTable(COCO_NAMES, COCO_IDS)
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}, a detector needs at least 1")
    if num_classes == len(COCO_ROWS):
        return ClassTable.numbered(COCO_ROWS)
    return ClassTable.numbered([f"class {i + 1}" for i in range(num_classes)])


def _open(spec: DetectorSpec, weights: str | Path | None) -> DetectorFile | None:
    if weights == "coco":
        return open_detector(_fetch(spec))
    if weights is None or weights == "imagenet":
        return None
    return open_detector(model_file(weights) if Path(weights).is_dir() else weights)


def _fetch(spec: DetectorSpec) -> Path:
    if spec.url is None:
        with_weights = [name for name, row in DETECTORS.items() if row.url and row.backbone.endswith(spec.backbone)]
        raise ConfigError(
            "no COCO weights are published for this detector",
            hint=f"they are for {' and '.join(with_weights)}" if with_weights else "give a path, or weights: imagenet",
        )
    target = Path(torch.hub.get_dir()) / "checkpoints" / spec.url.rpartition("/")[2]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = target.stem.rpartition("-")[2]
        try:
            torch.hub.download_url_to_file(spec.url, str(target), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"cannot fetch the COCO weights: {error}",
                where=spec.url,
                hint="where there is no network, download the file elsewhere and give its path as weights",
            ) from error
    return target


def _normalization(
    spec: DetectorSpec, trunk: Backbone, file: DetectorFile | None, bands: Sequence[str] | None, *, swapped: bool
) -> Normalization:
    """Return the pixel statistics that belong to the weights."""
    if file is not None and file.card is not None:
        return Normalization.from_dict(file.card["normalization"])
    if file is None and swapped:
        return trunk.normalization
    published = Normalization(*_STATISTICS[spec.statistics], padding=spec.padding_value)
    return published.for_bands(bands or trunk.in_channels)


def save_detector(
    path: Path | str,
    model: EfficientDet,
    input_size: tuple[int, int],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file: weights, architecture, classes, pixel statistics, and the size it was trained at."""
    if model.backbone.card is None:
        raise ConfigError("the detector's backbone has no card", hint="make it with create_backbone")
    card = {
        "task": "detection",
        "detector": asdict(model.spec),
        "backbone": asdict(model.backbone.card),
        "classes": asdict(model.classes),
        "normalization": model.preprocess.normalization.to_dict(),
        "input_size": list(input_size),
        "provenance": dict(provenance or {}),
    }
    write_model_file(path, model.state_dict(), card)


def load_model(path: Path | str) -> tuple[EfficientDet, dict[str, Any]]:
    """Build the detector of a model file and fill it; nothing else is needed. Returns it with the file's card.

    Raises:
        ConfigError: the file is damaged, or not a detector's model file.
    """
    file = open_detector(path)
    if file is None or file.card is None:
        raise ConfigError(
            "not a model file of a detector",
            where=str(path),
            hint="foreign weights load through create_detector",
        )
    card = dict(file.card)
    row = card["detector"]
    spec = DetectorSpec(**{**row, "aspects": tuple(tuple(aspect) for aspect in row["aspects"])})
    classes = ClassTable(tuple(card["classes"]["names"]), tuple(card["classes"]["ids"]))
    preprocess = Preprocess(Normalization.from_dict(card["normalization"]))
    model = EfficientDet(spec, rebuild_backbone(BackboneCard(**card["backbone"])), preprocess, classes)
    load_detector(model, file)
    return model.eval(), card
