"""Masks of smooth regions, and the ways to count their pixels by class of the truth and class found."""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import Comparison, Side
from densenet_suite.segmentation.metric import SegmentationMetric
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

Array = np.ndarray[Any, Any]


def make_masks(classes: int, options: argparse.Namespace, *, overlapping: bool = False) -> tuple[Tensor, Tensor]:
    """Return masks found and true, [b h w] of classes or [b k h w] of 0 and 1, of which the truth is all known."""
    rng = np.random.default_rng(0)
    found, truth = [], []
    for _ in range(options.batch):
        scene = blurred(rng, classes, options.size, options.size / 20)
        doubt = blurred(rng, classes, options.size, options.size / 100)
        pair = (scene + 0.35 * doubt, scene)
        for masks, scores in zip((found, truth), pair, strict=True):
            masks.append((scores > 0.5) if overlapping else scores.argmax(0))
    found_masks, true_masks = (torch.from_numpy(np.stack(masks).astype(np.uint8)) for masks in (found, truth))
    return found_masks, true_masks


def blurred(rng: np.random.Generator, planes: int, size: int, radius: float) -> Array:
    """Return smooth noise [planes size size] of mean 0 and deviation 1."""
    noise = [cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), radius) for _ in range(planes)]
    return np.stack([plane / plane.std() for plane in noise])


def counting(found: Tensor, truth: Tensor, classes: int) -> tuple[Callable[[], None], SegmentationMetric]:
    """Return what counts all masks, and where the counts are."""
    names = tuple(str(number) for number in range(classes))
    metric = SegmentationMetric(MaskClasses(names, ((0, 0, 0),) * classes, found.ndim == 4))

    def run() -> None:
        for index in range(len(found)):
            metric.update(index, found[index], truth[index])

    run()
    return run, metric


def exclusive_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for classes in options.classes:
        for ignored in (None, IGNORE):
            found, truth = make_masks(classes, options)
            if ignored is not None:
                truth[:, : options.size // 20] = ignored
            run, metric = counting(found, truth, classes)
            wide = found.long(), truth.long()
            peers = {
                "torchmetrics": partial(confusion_side, metric, *wide, classes, ignored),
                "torchmetrics, of 8 bits": partial(confusion_side, metric, found, truth, classes, ignored),
                "smp": partial(smp_side, metric, *wide, mode="multiclass", num_classes=classes, ignore_index=ignored),
            }
            name = f"masks of {classes} classes{'' if ignored is None else ', some unknown'}"
            yield Comparison(name, Side(run), peers, options.batch)


def overlapping_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for classes in options.classes:
        found, truth = make_masks(classes, options, overlapping=True)
        run, metric = counting(found, truth, classes)
        wide = found.long(), truth.long()
        peers = {
            "torchmetrics": partial(multilabel_side, metric, *wide, classes),
            "torchmetrics, of 8 bits": partial(multilabel_side, metric, found, truth, classes),
            "smp": partial(smp_side, metric, *wide, mode="multilabel"),
        }
        yield Comparison(f"masks of {classes} overlapping classes", Side(run), peers, options.batch)


def confusion_side(metric: SegmentationMetric, found: Tensor, truth: Tensor, classes: int, ignored: int | None) -> Side:
    from torchmetrics.classification import MulticlassConfusionMatrix

    theirs = MulticlassConfusionMatrix(classes, ignore_index=ignored)

    def check() -> None:
        theirs.update(found, truth)
        np.testing.assert_array_equal(metric.compute().confusion, theirs.compute().numpy())

    return Side(lambda: theirs.update(found, truth), check)


def multilabel_side(metric: SegmentationMetric, found: Tensor, truth: Tensor, classes: int) -> Side:
    from torchmetrics.classification import MultilabelConfusionMatrix

    theirs = MultilabelConfusionMatrix(classes)

    def check() -> None:
        theirs.update(found, truth)
        tables = theirs.compute()
        same(metric, tables[:, 1, 1], tables[:, 0, 1], tables[:, 1, 0])

    return Side(lambda: theirs.update(found, truth), check)


def smp_side(metric: SegmentationMetric, found: Tensor, truth: Tensor, **settings: Any) -> Side:
    from segmentation_models_pytorch.metrics import get_stats

    def run() -> tuple[Tensor, ...]:
        return get_stats(found, truth, **settings)

    def check() -> None:
        same(metric, *(counts.sum(0) for counts in run()[:3]))

    return Side(run, check)


def same(metric: SegmentationMetric, hits: Tensor, false_alarms: Tensor, misses: Tensor) -> None:
    """Hold ours against the counts of each class."""
    scores = list(metric.compute().per_class.values())
    assert [values["support"] for values in scores] == (hits + misses).tolist()
    for name, whole in (("precision", hits + false_alarms), ("IoU", hits + false_alarms + misses)):
        torch.testing.assert_close(
            torch.tensor([values[name] for values in scores], dtype=torch.float64), hits / whole.double()
        )
