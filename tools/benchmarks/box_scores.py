"""Objects and detections like those of COCO val2017, and the ways to their average precision."""

import argparse
import contextlib
import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import Comparison, Side
from densenet_suite.detection.coco_engines import by_hotcoco
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.metric import CocoEvaluator, DetectionScores
from densenet_suite.detection.structures import ClassTable, Detections
from densenet_suite.findings import Findings

os.environ["RAYON_NUM_THREADS"] = "1"  # of hotcoco, before it is imported
CLASSES = 80
OBJECTS = 7.3562  # in an image, on average: 36,781 in 5,000
LIMITS = (1, 10, 100)
Array = np.ndarray[Any, Any]


class Split(NamedTuple):
    """A data set, and the detections of each image."""

    truth: DetectionSet
    found: list[Detections]

    def first(self, images: int) -> "Split":
        """Return a part of it."""
        return Split(self.truth.subset("val", range(images)), self.found[:images])


def make_split(count: int) -> Split:
    """Make images with very different numbers of objects, most of them of few classes, and 100 detections each."""
    rng = np.random.default_rng(0)
    often = 1 / np.arange(1, CLASSES + 1) ** 0.8
    often /= often.sum()
    images, found = [], []
    for index, number in enumerate(rng.multinomial(round(OBJECTS * count), rng.dirichlet(np.ones(count)))):
        boxes, labels = scattered(rng, number), rng.choice(CLASSES, number, p=often)
        areas = 0.6 * (boxes[:, 2:] - boxes[:, :2]).prod(1)  # as of masks
        objects = Objects(boxes, labels, rng.random(number) < 0.012, areas, (0,) * number, (None,) * number)
        images.append(LabelledImage(index, Path(f"{index}.jpg"), 480, 640, objects))
        near = rng.integers(0, max(1, number), min(3 * number, LIMITS[-1]))
        sides = np.tile(boxes[near, 2:] - boxes[near, :2], 2)
        others = LIMITS[-1] - len(near)
        corners = np.concatenate([boxes[near] + rng.normal(0, 0.1, sides.shape) * sides, scattered(rng, others)])
        corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
        label = rng.choice(CLASSES, LIMITS[-1], p=often)
        label[: len(near)] = np.where(rng.random(len(near)) < 0.85, labels[near], label[: len(near)])
        score = np.concatenate([rng.beta(3, 3, len(near)), rng.beta(1, 12, others)])
        best = np.argsort(-score)
        boxes_found, scores_found = (torch.from_numpy(values[best]).float() for values in (corners, score))
        found.append(Detections(boxes_found, scores_found, torch.from_numpy(label[best])))
    names = ClassTable.numbered([str(number) for number in range(CLASSES)])
    return Split(DetectionSet("val", Path("val.json"), names, tuple(images), Findings("val")), found)


def scattered(rng: np.random.Generator, number: int) -> Array:
    """Return boxes [n 4] of any size, anywhere in a picture."""
    sides = np.exp(rng.normal(4, 1, (number, 2))).clip(6, [620, 460])
    corners = rng.random((number, 2)) * ([640, 480] - sides)
    return np.concatenate([corners, corners + sides], 1)


class Ours:
    """This package, on hotcoco or on pycocotools."""

    def __init__(self, split: Split, *, hotcoco: bool):
        self.split, self.hotcoco = split, hotcoco

    def __call__(self) -> DetectionScores:
        """Return the scores."""
        evaluator = CocoEvaluator(self.split.truth)
        for index, detections in enumerate(self.split.found):
            evaluator.update(index, detections)
        with patch("densenet_suite.detection.metric.is_installed", return_value=self.hotcoco):
            return evaluator.compute()


class Pycocotools:
    """The reference, by the book; its detections are an array, which is the fastest it takes."""

    def __init__(self, split: Split):
        entries: list[dict[str, Any]] = []
        for image in split.truth.images:
            objects = image.objects
            columns = (objects.boxes.tolist(), objects.labels.tolist(), objects.areas.tolist(), objects.crowd.tolist())
            for (x1, y1, x2, y2), label, area, crowd in zip(*columns, strict=True):
                entry = {"id": len(entries) + 1, "image_id": image.id, "category_id": label, "iscrowd": int(crowd)}
                entries.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area})
        images = [{"id": image.id} for image in split.truth.images]
        categories = [{"id": label} for label in range(CLASSES)]
        self.dataset = {"info": {}, "images": images, "annotations": entries, "categories": categories}
        rows = rows_of(split)
        self.rows = np.concatenate([np.insert(rows[index], 0, index, axis=1) for index in rows])
        self.rows[:, 3:5] -= self.rows[:, 1:3]

    def __call__(self) -> tuple[Array, Array, Array]:
        """Return precision, recall and the twelve numbers."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = self.dataset
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(self.rows), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation.eval["precision"], evaluation.eval["recall"], evaluation.stats


def rows_of(split: Split) -> dict[int, Array]:
    """Return [n 6] x1, y1, x2, y2, score, label of each image."""
    columns = ((found.boxes.double(), found.scores[:, None], found.labels[:, None]) for found in split.found)
    return {index: torch.cat(of_image, 1).numpy() for index, of_image in enumerate(columns)}


class Torchmetrics:
    """torchmetrics, whose pycocotools it is as well."""

    def __init__(self, split: Split):
        from torchmetrics.detection import MeanAveragePrecision

        self.metric = MeanAveragePrecision(backend="pycocotools")
        self.metric.warn_on_many_detections = False
        self.found = [{"boxes": boxes, "scores": scores, "labels": labels} for boxes, scores, labels in split.found]
        self.truth: list[dict[str, Tensor]] = []
        for image in split.truth.images:
            objects = image.objects
            names = {"boxes": objects.boxes, "labels": objects.labels, "iscrowd": objects.crowd, "area": objects.areas}
            self.truth.append({name: torch.from_numpy(values) for name, values in names.items()})
            self.truth[-1]["boxes"] = self.truth[-1]["boxes"].float()

    def __call__(self) -> dict[str, float]:
        """Return the scores over all classes."""
        self.metric.reset()
        for start in range(0, len(self.found), 16):
            self.metric.update(self.found[start : start + 16], self.truth[start : start + 16])
        with contextlib.redirect_stdout(io.StringIO()):
            return {name: float(value) for name, value in self.metric.compute().items() if value.ndim == 0}


def coco_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    import hotcoco  # noqa: F401 - without it there is nothing to compare

    yield from comparisons(options, hotcoco=True)


def reference_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    yield from comparisons(options, hotcoco=False)


def comparisons(options: argparse.Namespace, *, hotcoco: bool) -> Iterator[Comparison]:
    split = make_split(options.images)
    small = split.first(min(50, options.images))
    run = Ours(split, hotcoco=hotcoco)
    scores, mib = in_fork(run, Ours(small, hotcoco=hotcoco))

    def pycocotools() -> Side:
        peer = Pycocotools(split)
        answer, mib = in_fork(peer, Pycocotools(small))
        return Side(peer, partial(same, split, scores, *answer, hotcoco=hotcoco), {"MiB": mib})

    def torchmetrics() -> Side:
        peer = Torchmetrics(split)
        answer, mib = in_fork(peer, Torchmetrics(small))
        return Side(peer, partial(similar, scores, answer), {"MiB": mib})

    engine = "hotcoco" if hotcoco else "pycocotools"
    peers = {"pycocotools": pycocotools, "torchmetrics, boxes in float32": torchmetrics}
    yield Comparison(f"COCO AP of {options.images}, on {engine}", Side(run, figures={"MiB": mib}), peers)


def same(
    split: Split, scores: DetectionScores, precision: Array, recall: Array, numbers: Array, *, hotcoco: bool
) -> None:
    """Hold ours against pycocotools."""
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-9)
    close([-1 if value is None else value for value in scores.summary.values()], numbers[:9])
    close(scores.precision, precision[0, :, :, 0, 2])
    if hotcoco:
        curves = by_hotcoco(split.truth, rows_of(split), LIMITS)
        close(curves.precision, precision)
        close(curves.recall, recall)


def similar(scores: DetectionScores, theirs: dict[str, float]) -> None:
    """Hold ours against torchmetrics."""
    names = {"AP": "map", "AP50": "map_50", "AP75": "map_75", "AR_100": "mar_100"}
    for ours, name in names.items():
        np.testing.assert_allclose(scores.summary[ours], theirs[name], rtol=0, atol=1e-3)


def in_fork(work: Callable[[], Any], warm_up: Callable[[], Any]) -> tuple[Any, float]:
    """Do some work in a fork of this process; return its answer, and the MiB it takes beyond what was there."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_do, args=(work, warm_up, sender))
    child.start()
    sender.close()
    answer = receiver.recv()
    child.join()
    return answer


def _do(work: Callable[[], Any], warm_up: Callable[[], Any], sender: Connection) -> None:
    warm_up()  # loads modules and pages of the program
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status_mib("VmRSS")
    answer = work()
    sender.send((answer, _status_mib("VmHWM") - before))


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
