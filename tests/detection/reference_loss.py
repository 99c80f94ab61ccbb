"""The training loss in its readable form, for autograd: what `densenet_suite.detection.loss` computes faster."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densenet_suite.detection.boxes import encode_boxes
from densenet_suite.detection.loss import ALPHA, BOX_WEIGHT, GAMMA, HUBER_DELTA, DetectionLoss
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.structures import IGNORE, RawDetections


def reference_loss(raw: RawDetections, boxes: Tensor, labels: Tensor) -> DetectionLoss:
    matches = match_anchors(boxes.float(), labels, raw.anchors.float())  # the same in float64
    positive = matches != IGNORE
    rows = matches.clamp(min=0)
    if labels.shape[1] == 0:  # there is no row to look up
        labels, boxes = labels.new_zeros(len(labels), 1), boxes.new_zeros(len(labels), 1, 4)
    targets = F.one_hot(labels.gather(1, rows).clamp(min=0), raw.class_logits.shape[2]).bool()
    present = targets & positive[..., None]
    classification = torch.where(present, focal_foreground(raw.class_logits), focal_background(raw.class_logits)).sum()
    anchors = raw.anchors.expand_as(raw.box_deltas)
    assigned = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    target = encode_boxes(torch.where(positive[..., None], assigned, anchors), anchors)
    errors = F.huber_loss(_single_or_double(raw.box_deltas), target, reduction="none", delta=HUBER_DELTA)
    box = torch.where(positive[..., None] & (target != 0), errors, 0.0).sum()
    normalizer = positive.sum() + 1.0
    classification, box = classification / normalizer, box / (normalizer * 4)
    return DetectionLoss(classification + BOX_WEIGHT * box, classification, box, positive.sum())


def focal_background(logits: Tensor) -> Tensor:
    """Return the focal loss of logits whose class is absent."""
    logits = _single_or_double(logits)
    return (1 - ALPHA) * logits.sigmoid() ** GAMMA * F.softplus(logits)


def focal_foreground(logits: Tensor) -> Tensor:
    """Return the focal loss of logits whose class is present."""
    logits = _single_or_double(logits)
    return ALPHA * (-logits).sigmoid() ** GAMMA * F.softplus(-logits)


def _single_or_double(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
