"""Suppression without shortcuts: every pair is sorted, every candidate is suppressed; and in slow loops."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from densenet_suite.detection.boxes import clip_boxes, decode_boxes
from densenet_suite.detection.postprocess import Postprocess, separate_classes
from densenet_suite.detection.structures import Detections, RawDetections


def reference_postprocess(options: Postprocess, raw: RawDetections, sizes: Tensor | None = None) -> list[Detections]:
    threshold = torch.logit(torch.tensor(options.score_threshold, dtype=torch.float64)).item()
    classes = raw.class_logits.shape[2]
    results = []
    for image, logits in enumerate(raw.class_logits.float().flatten(1)):
        values, pairs = logits.sort(descending=True, stable=True)
        values = values[values > threshold][: options.max_candidates]
        pairs = pairs[: len(values)]
        anchors, labels, scores = pairs // classes, pairs % classes, values.sigmoid().cummin(0).values
        boxes = decode_boxes(raw.box_deltas[image, anchors], raw.anchors[anchors])
        if sizes is not None:
            boxes = clip_boxes(boxes, *sizes[image].tolist())
            left = (boxes[:, 2:] > boxes[:, :2]).all(1)
            boxes, scores, labels = boxes[left], scores[left], labels[left]
        keep = nms(separate_classes(boxes, labels), scores.double(), options.iou_threshold)[: options.max_detections]
        results.append(Detections(boxes[keep], scores[keep], labels[keep]))
    return results


def slow_postprocess(options: Postprocess, raw: RawDetections) -> tuple[list[list[float]], list[float], list[int]]:
    """Return boxes, logits and labels, of anchors that are not moved: one pair after the other, class by class."""
    kept: list[_Pair] = []
    for pair in _pairs(raw, options.score_threshold)[: options.max_candidates]:
        if all(other.label != pair.label or _overlap(other.box, pair.box) <= options.iou_threshold for other in kept):
            kept.append(pair)
    kept = kept[: options.max_detections]
    return [pair.box for pair in kept], [pair.logit for pair in kept], [pair.label for pair in kept]


def slow_decay(options: Postprocess, raw: RawDetections) -> Tensor:
    """Return the scores of soft suppression, one pair after the other."""
    left = [(pair, 1 / (1 + math.exp(-pair.logit))) for pair in _pairs(raw, options.score_threshold)]
    scores = []
    while left and len(scores) < options.max_detections:
        best, score = max(left, key=lambda item: item[1])  # the first of several
        if score <= options.score_threshold:
            break
        scores.append(score)
        left = [
            (pair, value * math.exp(-(_overlap(best.box, pair.box) ** 2) / options.sigma * (pair.label == best.label)))
            for pair, value in left
            if pair is not best
        ]
    return torch.tensor(scores, dtype=torch.float64)


class _Pair(NamedTuple):
    logit: float
    box: list[float]
    label: int


def _pairs(raw: RawDetections, threshold: float) -> list[_Pair]:
    """Return the pairs above a score, best first; of equal logits the lower anchor, then the lower class is first."""
    rows = zip(raw.class_logits[0].tolist(), raw.anchors.tolist(), strict=True)
    pairs = [_Pair(logit, box, label) for logits, box in rows for label, logit in enumerate(logits)]
    return sorted((p for p in pairs if 1 / (1 + math.exp(-p.logit)) > threshold), key=lambda p: -p.logit)


def _overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)
