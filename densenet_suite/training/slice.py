"""What a run needs to know of a task: how a config becomes its data, its network and its files.

This is the only place where a config meets the slices; they take plain values. A further task is a further entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densenet_suite.augment import AugmentPolicy
from densenet_suite.config.schema import Config, size_of
from densenet_suite.detection.build import create_detector, load_model, save_detector
from densenet_suite.detection.data import DetectionData, split_paths
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.task import DetectionTask
from densenet_suite.detection.variants import DetectorSpec, detector_spec
from densenet_suite.optim import Recipe


@dataclass(frozen=True)
class Slice:
    """One task.

    Attributes:
        data: makes the data module; called with the config and the classes of a trained model, or None.
        task: makes a new network under its Lightning module; called with the config and the data.
        trained: puts a trained network under its Lightning module; called with the config and the network.
        load: reads a model file; returns the network and the file's card.
        save: writes one; called with the path, the Lightning module, (height, width) and the provenance.
        monitor: the score that decides what is best, higher is better.
        losses, scores: of the epoch's line, as (key, title).
    """

    data: Callable[[Config, Any], Any]
    task: Callable[[Config, Any], Any]
    trained: Callable[[Config, Any], Any]
    load: Callable[[Path], tuple[Any, dict[str, Any]]]
    save: Callable[[Path, Any, tuple[int, int], Mapping[str, Any]], None]
    monitor: str
    losses: tuple[tuple[str, str], ...]
    scores: tuple[tuple[str, str], ...]


def _detection_data(config: Config, classes: ClassTable | None) -> DetectionData:
    data = config.data
    root = Path(data.root)
    given = {"train": data.train, "val": data.val, "test": data.test}
    named = {name: split_paths(root, s.annotations, s.images) for name, s in given.items() if s is not None}
    return DetectionData(
        root,
        size_of(config),
        config.train.batch,
        named=named,
        holdout=data.holdout,
        augment=AugmentPolicy(**config.augment.model_dump()),
        workers=data.workers,
        bands=config.model.in_channels,
        classes=classes,
        seed=config.seed,
    )


def _detection_task(config: Config, data: DetectionData) -> DetectionTask:
    model = config.model
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
    optimizer, train = config.train.optimizer, config.train
    recipe = Recipe(optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay, train.warmup_epochs)
    return DetectionTask(
        detector,
        recipe,
        Postprocess(**config.postprocess.model_dump()),
        freeze_patterns=train.freeze,
        norms_of_frozen=train.frozen_norms,
    )


def _trained_detection(config: Config, model: EfficientDet) -> DetectionTask:
    return DetectionTask(model, postprocess=Postprocess(**config.postprocess.model_dump()))


def _row(config: Config) -> DetectorSpec:
    """Return the architecture's row, with the numbers that the config sets itself."""
    model = config.model
    numbers = ("channels", "cells", "repeats", "anchor_scale", "min_level", "max_level")
    return detector_spec(model.architecture).with_numbers(**{name: getattr(model, name) for name in numbers})


def _save_detection(path: Path, task: DetectionTask, size: tuple[int, int], provenance: Mapping[str, Any]) -> None:
    save_detector(path, task.model, size, provenance)


SLICES = {
    "detection": Slice(
        data=_detection_data,
        task=_detection_task,
        trained=_trained_detection,
        load=load_model,
        save=_save_detection,
        monitor="val/AP",
        losses=(("train/loss", "loss"), ("train/class_loss", "class"), ("train/box_loss", "box")),
        scores=(("val/AP", "AP"), ("val/AP50", "AP50")),
    ),
}
