"""The training loss: focal loss over all anchors, Huber loss over those that have an object.

Reference: EfficientDet, arXiv:1911.09070, section 5.1, and its code: alpha 0.25, gamma 1.5, Huber delta 0.1, box loss
weight 50, both divided by the number of positive anchors of the batch plus one. Computed in float32 and in log space,
so any logit gives a finite loss and a finite gradient.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from densenet_suite.detection.boxes import encode_boxes
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.structures import IGNORE, RawDetections

ALPHA = 0.25
GAMMA = 1.5
HUBER_DELTA = 0.1
BOX_WEIGHT = 50.0


class DetectionLoss(NamedTuple):
    """Loss terms: `total` = `classification` + 50 `box`; `positives` counts the anchors that have an object."""

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    box: Float[Tensor, ""]
    positives: Int[Tensor, ""]


def detection_loss(raw: RawDetections, boxes: Float[Tensor, "b m 4"], labels: Int[Tensor, "b m"]) -> DetectionLoss:
    """Assign anchors and compute the loss.

    Args:
        raw: the network's output.
        boxes: xyxy in pixels of the network's input.
        labels: 0..k-1; -1 for rows that hold no object.
    """
    matches = match_anchors(boxes, labels, raw.anchors)
    positive = matches != IGNORE
    rows = matches.clamp(min=0)
    positives = positive.sum()
    if labels.shape[1] == 0:  # no image has an object: there is no row to look up
        return _total(focal_background(raw.class_logits).sum(), raw.box_deltas.float().sum() * 0, positives)
    targets = labels.gather(1, rows).clamp(min=0)
    classification = _focal_loss(raw.class_logits, targets, positive)
    assigned = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    box = _box_loss(raw, assigned, positive)
    return _total(classification, box, positives)


def _total(classification: Tensor, box: Tensor, positives: Tensor) -> DetectionLoss:
    normalizer = positives + 1.0
    classification = classification / normalizer
    box = box / (normalizer * 4)
    return DetectionLoss(classification + BOX_WEIGHT * box, classification, box, positives)


def _focal_loss(logits: Float[Tensor, "b n k"], targets: Int[Tensor, "b n"], positive: Tensor) -> Float[Tensor, ""]:
    """Sum the loss as if every logit were background, then correct those of the objects: no one-hot array exists."""
    at_target = logits.gather(2, targets[..., None])[..., 0]
    correction = focal_foreground(at_target) - focal_background(at_target)
    return focal_background(logits).sum() + torch.where(positive, correction, 0.0).sum()


def focal_background(logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the focal loss of logits whose class is absent."""
    logits = logits.float()
    return (1 - ALPHA) * logits.sigmoid() ** GAMMA * F.softplus(logits)


def focal_foreground(logits: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the focal loss of logits whose class is present."""
    logits = logits.float()
    return ALPHA * (-logits).sigmoid() ** GAMMA * F.softplus(-logits)


def _box_loss(raw: RawDetections, assigned: Float[Tensor, "b n 4"], positive: Tensor) -> Float[Tensor, ""]:
    anchors = raw.anchors.expand_as(assigned)
    safe = torch.where(positive[..., None], assigned, anchors)  # keeps the logarithm finite where nothing is assigned
    target = encode_boxes(safe, anchors)
    loss = F.huber_loss(raw.box_deltas.float(), target, reduction="none", delta=HUBER_DELTA)
    # as in the original, a component that needs no correction at all is not trained
    return torch.where(positive[..., None] & (target != 0), loss, 0.0).sum()
