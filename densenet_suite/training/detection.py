"""Detection, as training sees it: from a config to data, network and files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densenet_suite.config.detection import DetectionConfig
from densenet_suite.detection.anchor_coverage import AnchorPlan, check_network
from densenet_suite.detection.box_table import BoxTable
from densenet_suite.detection.build import create_detector, load_model, save_detector
from densenet_suite.detection.checks import check_boxes
from densenet_suite.detection.data import DetectionData
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.layout import name_split
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.task import DetectionTask
from densenet_suite.detection.variants import DetectorSpec, detector_spec
from densenet_suite.training.slice import Slice, reading_of, recipe_of


def _detection_data(config: DetectionConfig, trained: EfficientDet | None) -> DetectionData:
    data = config.data
    root = Path(data.root)
    given = {"train": data.train, "val": data.val, "test": data.test}
    named = {
        name: name_split(root, name, split.annotations, split.images, data.format)
        for name, split in given.items()
        if split is not None
    }
    module = DetectionData(
        root,
        config.input_size,
        config.train.batch_size,
        named=named,
        format=data.format,
        holdout=data.holdout,
        augment=config.augment.policy,
        epochs=config.train.epochs,
        workers=data.workers,
        reading=reading_of(data),
        bands=config.model.in_channels,
        classes=trained.classes if trained else None,
        seed=config.seed,
    )
    if trained:
        module.fill = trained.preprocess.normalization.fill
    return module


def _detection_task(config: DetectionConfig, data: DetectionData) -> DetectionTask:
    model = config.model
    data.fit_augment()
    detector = create_detector(
        _row(config),
        classes=data.classes,
        backbone=model.backbone,
        in_channels=model.in_channels,
        weights=model.weights,
        drop_path=model.drop_path,
        checkpointing=model.checkpointing,
    )
    data.fill = detector.preprocess.normalization.fill
    return DetectionTask(
        detector,
        recipe_of(config.train),
        Postprocess(**config.postprocess.model_dump()),
        freeze_patterns=config.train.freeze,
        norms_of_frozen=config.train.frozen_norms,
    )


def _trained_detection(config: DetectionConfig, model: EfficientDet) -> DetectionTask:
    return DetectionTask(model, postprocess=Postprocess(**config.postprocess.model_dump()))


def _check_detection(config: DetectionConfig, splits: Mapping[str, DetectionSet], advise: bool) -> dict[str, Any]:
    row = _row(config)
    levels = tuple(range(row.min_level, row.max_level + 1))
    plan = AnchorPlan(config.input_size, levels, row.anchor_scale, row.aspects)
    tables = {name: BoxTable.of(split) for name, split in splits.items()}
    check_boxes(splits, tables)
    return check_network(splits, tables, plan, config.postprocess.max_detections, advise=advise)


def _row(config: DetectionConfig) -> DetectorSpec:
    """Return the architecture's row, with the numbers that the config sets itself."""
    model = config.model
    numbers = ("channels", "cells", "repeats", "anchor_scale", "min_level", "max_level")
    return detector_spec(model.architecture).with_numbers(**{name: getattr(model, name) for name in numbers})


def _save_detection(path: Path, task: DetectionTask, size: tuple[int, int], provenance: Mapping[str, Any]) -> None:
    save_detector(path, task.model, size, provenance)


DETECTION = Slice(
    data=_detection_data,
    task=_detection_task,
    trained=_trained_detection,
    check=_check_detection,
    load=load_model,
    save=_save_detection,
    monitor="val/AP",
    losses=(("train/loss", "loss"), ("train/class_loss", "class"), ("train/box_loss", "box")),
    scores=(("val/AP", "AP"), ("val/AP50", "AP50")),
)
