"""COCO average precision over a dataset, by pycocotools, or by hotcoco where it is installed, which gives the same.

Reference: Lin et al., Microsoft COCO, arXiv:1405.0312, and its evaluation code. Detections are fed as arrays in pixels
of the original files; annotations and images are numbered anew for it, so an annotation with the id 0, which
pycocotools takes for no match, or an id above 2^53 cannot change a score.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.structures import Detections
from densenet_suite.installed import is_installed

Array = np.ndarray[Any, Any]
_SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class DetectionScores:
    """COCO metrics of a split, from 0 to 1; None where there is no object to find.

    Attributes:
        summary: "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large" and "AR_1", "AR_10", "AR_<limit>".
        per_class: for each class its "AP", "AP50" and number of "objects".
        precision: [r k] precision of each class at IoU 0.5 for recalls 0, 0.01 ... 1; -1 where it has no object.
    """

    summary: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]
    precision: Array


class CocoEvaluator:
    """Collects detections and scores them.

    Args:
        truth: the split; its boxes are used as the file has them, not clipped.
        max_detections: per image, the last of COCO's three limits.
    """

    def __init__(self, truth: DetectionSet, max_detections: int = 100):
        self.truth = truth
        self.max_detections = max_detections
        self._rows: dict[int, Array] = {}

    def update(self, index: int, detections: Detections) -> None:
        """Add the detections of the image with this index, boxes in pixels of its file; a second time replaces them."""
        boxes = detections.boxes.detach().double().cpu().numpy()
        rows = np.empty((len(boxes), 6), np.float64)
        rows[:, :2] = boxes[:, :2]
        rows[:, 2:4] = boxes[:, 2:] - boxes[:, :2]
        rows[:, 4] = detections.scores.detach().double().cpu().numpy()
        rows[:, 5] = detections.labels.cpu().numpy()
        self._rows[index] = rows

    def gather(self) -> None:
        """Bring together what several processes have collected; an image that two of them have counts once."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self._rows)
            for part in parts:
                self._rows.update(part)

    def detections(self) -> list[tuple[int, Array]]:
        """Return (index, [n 6] x, y, width, height, score, label) of each image that was added."""
        return sorted(self._rows.items())

    def compute(self) -> DetectionScores:
        """Score the images that were added."""
        images = sorted(self._rows)
        detections = [
            np.column_stack([np.full(len(rows), index + 1), rows[:, :5], rows[:, 5] + 1])
            for index, rows in self.detections()
        ]
        found = np.concatenate(detections) if detections else np.empty((0, 7))
        limits = (1, 10, self.max_detections)
        evaluation = _evaluate(_truth_as_coco(self.truth, images), found, limits)
        return _scores(self.truth, images, evaluation, self.max_detections)


def _truth_as_coco(truth: DetectionSet, images: Sequence[int]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for index in images:
        objects = truth.images[index].objects
        for i in range(len(objects)):
            x1, y1, x2, y2 = objects.boxes[i].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(objects.labels[i]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(objects.areas[i]),
                    "iscrowd": int(objects.crowd[i]),
                }
            )
    return {
        "info": {},
        "images": [
            {
                "id": i + 1,
                "height": truth.images[i].height,
                "width": truth.images[i].width,
                "file_name": str(i),
            }
            for i in images
        ],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(truth.classes.names)],
    }


def _evaluate(truth: dict[str, Any], found: Array, limits: tuple[int, int, int]) -> dict[str, Array]:
    """Return "precision" [t r k a m] and "recall" [t k a m], by the fastest engine that is installed."""
    with contextlib.redirect_stdout(io.StringIO()):  # the engines talk
        ground, results, engine = _hotcoco(truth, found) if is_installed("hotcoco") else _pycocotools(truth, found)
        evaluation = engine(ground, results, "bbox")
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return {name: np.asarray(evaluation.eval[name]) for name in ("precision", "recall")}


def _pycocotools(truth: dict[str, Any], found: Array) -> tuple[Any, Any, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground, results = COCO(), COCO()
    ground.dataset, results.dataset = truth, {**truth, "annotations": []}
    ground.createIndex()
    results.createIndex()
    return ground, ground.loadRes(found) if len(found) else results, COCOeval  # loadRes fails on an empty array


def _hotcoco(truth: dict[str, Any], found: Array) -> tuple[Any, Any, Any]:
    from hotcoco import COCO, COCOeval

    ground = COCO(truth)
    return ground, ground.load_res(found) if len(found) else COCO({**truth, "annotations": []}), COCOeval


def _scores(truth: DetectionSet, images: Sequence[int], evaluation: dict[str, Array], limit: int) -> DetectionScores:
    precision, recall = evaluation["precision"], evaluation["recall"]
    summary = {
        "AP": _mean(precision[:, :, :, 0, 2]),
        "AP50": _mean(precision[0, :, :, 0, 2]),
        "AP75": _mean(precision[5, :, :, 0, 2]),
    }
    summary |= {f"AP_{size}": _mean(precision[:, :, :, i, 2]) for i, size in enumerate(_SIZES) if i}
    summary |= {f"AR_{most}": _mean(recall[:, :, 0, i]) for i, most in enumerate((1, 10, limit))}
    objects = np.zeros(len(truth.classes), np.int64)
    for index in images:
        of_image = truth.images[index].objects
        np.add.at(objects, of_image.labels[~of_image.crowd], 1)
    per_class = {
        name: {
            "AP": _mean(precision[:, :, k, 0, 2]),
            "AP50": _mean(precision[0, :, k, 0, 2]),
            "objects": int(objects[k]),
        }
        for k, name in enumerate(truth.classes.names)
    }
    return DetectionScores(summary, per_class, precision[0, :, :, 0, 2])


def _mean(values: Array) -> float | None:
    """Return the mean of what is defined; COCO marks classes without an object by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def to_file(detections: Detections, scale: Tensor, size: Tensor) -> Detections:
    """Map detections of a letterboxed image to the pixels of its file.

    Args:
        detections: in pixels of the network's input.
        scale: (y, x) of the letterbox.
        size: (height, width) of the file.
    """
    factors = torch.stack([scale[1], scale[0], scale[1], scale[0]])
    limits = torch.stack([size[1], size[0], size[1], size[0]]).to(factors.dtype)
    boxes = (detections.boxes / factors).clamp(min=0).minimum(limits)
    return detections._replace(boxes=boxes)
