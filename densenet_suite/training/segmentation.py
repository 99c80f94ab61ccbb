"""Segmentation, as training sees it: from a config to data, network and files."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densenet_suite.config.segmentation import SegmentationConfig
from densenet_suite.errors import ConfigError
from densenet_suite.segmentation.build import create_segmenter, load_model, save_segmenter
from densenet_suite.segmentation.checks import check_crops, check_masks
from densenet_suite.segmentation.data import SegmentationData
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.loss_terms import LossTerm
from densenet_suite.segmentation.model import Segmenter
from densenet_suite.segmentation.statistics import class_weights
from densenet_suite.segmentation.task import SegmentationTask
from densenet_suite.training.slice import Slice, reading_of, recipe_of

logger = logging.getLogger(__name__)


def _segmentation_data(config: SegmentationConfig, trained: Segmenter | None) -> SegmentationData:
    data = config.data
    places = {"train": data.train, "val": data.val, "test": data.test}
    module = SegmentationData(
        Path(data.root),
        config.input_size,
        config.train.batch_size,
        named={name: (place.images, place.masks) for name, place in places.items() if place is not None},
        mask_name=data.mask_name,
        classes=data.classes,
        ignore=data.ignore,
        multilabel=data.multilabel,
        nearest=data.nearest_colour,
        holdout=data.holdout,
        augment=config.augment.policy,
        epochs=config.train.epochs,
        balance=data.balance,
        crops_per_image=data.crops_per_image,
        scale=data.scale,
        workers=data.workers,
        reading=reading_of(data),
        bands=config.model.in_channels if trained is None else trained.backbone.in_channels,
        given=trained.classes if trained else None,
        seed=config.seed,
    )
    if trained:
        module.normalization = trained.preprocess.normalization
    return module


def _segmentation_task(config: SegmentationConfig, data: SegmentationData) -> SegmentationTask:
    model = config.model
    data.fit_augment()
    segmenter = create_segmenter(
        model.decoder,
        classes=data.classes,
        backbone=model.backbone,
        in_channels=data.bands,
        weights=model.weights,
        bands=model.bands,
        drop_path=model.drop_path,
        checkpointing=model.checkpointing,
        attention=model.attention,
        norm=model.norm,
        deep_supervision=model.deep_supervision,
        normalization=data.own_normalization,
    )
    data.normalization = segmenter.preprocess.normalization
    return SegmentationTask(
        segmenter,
        recipe_of(config.train),
        tuple(LossTerm(**term.model_dump()) for term in config.loss.terms),
        _class_weights(config, data),
        tile=config.tiles.size,
        overlap=config.tiles.overlap,
        scale=config.data.scale,
        freeze_patterns=config.train.freeze,
        norms_of_frozen=config.train.frozen_norms,
    )


def _class_weights(config: SegmentationConfig, data: SegmentationData) -> Tensor | None:
    """Return what each class counts in the loss.

    Raises:
        ConfigError: weights are given by name, and not for every class.
    """
    given = config.loss.class_weights
    if given is None:
        return None
    names = data.classes.names
    if given == "balanced":
        weights = class_weights(data.split("train"))
        shown = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(names, weights.tolist(), strict=True))
        logger.info("class weights: %s", shown)
        return weights
    assert isinstance(given, dict)
    if set(given) != set(names):
        raise ConfigError(
            f"loss.class_weights names {', '.join(given)}; the classes are {', '.join(names)}",
            hint="give one for each class, or balanced",
        )
    return torch.tensor([given[name] for name in names])


def _check_segmentation(
    config: SegmentationConfig, splits: Mapping[str, SegmentationSet], advise: bool
) -> dict[str, Any]:
    check_masks(splits)
    return check_crops(splits, config.input_size, config.data.scale)


def _trained_segmentation(config: SegmentationConfig, model: Segmenter) -> SegmentationTask:
    terms = tuple(LossTerm(**term.model_dump()) for term in config.loss.terms)
    tiles = config.tiles
    return SegmentationTask(
        model, None, terms, tile=tiles.size, overlap=tiles.overlap, scale=config.data.scale, boundary=True
    )


def _save_segmentation(
    path: Path, task: SegmentationTask, size: tuple[int, int], provenance: Mapping[str, Any]
) -> None:
    save_segmenter(path, task.model, size, provenance, scale=task.scale)


SEGMENTATION = Slice(
    data=_segmentation_data,
    task=_segmentation_task,
    trained=_trained_segmentation,
    check=_check_segmentation,
    load=load_model,
    save=_save_segmentation,
    monitor="val/mIoU",
    losses=(("train/loss", "loss"),),
    scores=(("val/mIoU", "mIoU"), ("val/mDice", "mDice")),
)
