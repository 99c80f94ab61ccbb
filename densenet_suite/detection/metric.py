"""COCO average precision over a dataset, by pycocotools, or by hotcoco where it is installed, which gives the same.

Reference: Lin et al., Microsoft COCO, arXiv:1405.0312, and its evaluation code. Boxes are in pixels of the original
files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densenet_suite.detection.coco_engines import Curves, by_hotcoco, by_pycocotools
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
        max_detections: the last of COCO's three limits: of a class in an image, the best so many count.
    """

    def __init__(self, truth: DetectionSet, max_detections: int = 100):
        self.truth = truth
        self.max_detections = max_detections
        self._rows: dict[int, Array] = {}  # [n 6] x1, y1, x2, y2, score, label, in the precision they came in

    def update(self, index: int, detections: Detections) -> None:
        """Add the detections of the image with this index, boxes in pixels of its file; a second time replaces them."""
        boxes, scores, labels = detections
        rows = torch.cat([boxes, scores[:, None], labels[:, None].float()], 1)  # one copy from the device, not three
        self._rows[index] = rows.detach().cpu().numpy()

    def gather(self) -> None:
        """Bring together what several processes have collected; an image that two of them have counts once."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self._rows)
            for part in parts:
                self._rows.update(part)

    def detections(self) -> list[tuple[int, Array]]:
        """Return (index, [n 6] x, y, width, height, score, label) of each image that was added, in double precision."""
        found = [(index, rows.astype(np.float64)) for index, rows in sorted(self._rows.items())]
        for _, rows in found:
            rows[:, 2:4] -= rows[:, :2]
        return found

    def compute(self) -> DetectionScores:
        """Score the images that were added."""
        engine = by_hotcoco if is_installed("hotcoco") else by_pycocotools
        limits = [min(limit, self.max_detections) for limit in (1, 10, self.max_detections)]
        curves = engine(self.truth, self._rows, limits)
        return _scores(self.truth, sorted(self._rows), curves, self.max_detections)


def _scores(truth: DetectionSet, images: Sequence[int], curves: Curves, limit: int) -> DetectionScores:
    precision, recall = curves
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
    return DetectionScores(summary, per_class, precision[0, :, :, 0, 2].copy())


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
