"""The training loss: focal loss over all anchors, Huber loss over those that have an object.

Reference: EfficientDet, arXiv:1911.09070, section 5.1, and its code: alpha 0.25, gamma 1.5, Huber delta 0.1, box loss
weight 50, both divided by the number of positive anchors of the batch plus one. Computed in float32 and in log space,
so any logit gives a finite loss and a finite gradient.

Nearly every logit is background, so all are taken for it, in one pass that computes the loss and its gradient piece by
piece in the cache, where the few that are not are put right. The same loss as autograd has it, the readable form,
is in tests/detection/reference_loss.py.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from densenet_suite.collectives import Combine, alone
from densenet_suite.detection.boxes import encode_boxes
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.structures import IGNORE, RawDetections

ALPHA = 0.25
GAMMA = 1.5
HUBER_DELTA = 0.1
BOX_WEIGHT = 50.0
_LOGITS_PER_THREAD = 1 << 16  # as many as stay in the cache with what is computed from them
_LOGITS_AT_ONCE = 1 << 26  # elsewhere than on the CPU; bounds the memory


class DetectionLoss(NamedTuple):
    """Loss terms: `total` = `classification` + 50 `box`; `positives` counts the anchors that have an object."""

    total: Float[Tensor, ""]
    classification: Float[Tensor, ""]
    box: Float[Tensor, ""]
    positives: Int[Tensor, ""]


def detection_loss(
    raw: RawDetections, boxes: Float[Tensor, "b m 4"], labels: Int[Tensor, "b m"], combine: Combine = alone
) -> DetectionLoss:
    """Assign anchors and compute the loss.

    Args:
        raw: the network's output.
        boxes: xyxy in pixels of the network's input.
        labels: 0..k-1; -1 for rows that hold no object.
        combine: makes the sums of a batch those of the global batch: `collectives.sum_over_processes`, or `alone`.
    """
    matches = match_anchors(boxes, labels, raw.anchors)
    positive = matches != IGNORE
    if labels.shape[1] == 0:  # no image has an object: there is no row to look up
        labels, boxes = labels.new_zeros(len(labels), 1), boxes.new_zeros(len(labels), 1, 4)
    rows = matches.clamp(min=0)
    targets = labels.gather(1, rows).clamp(min=0)
    classification = _FocalLoss.apply(raw.class_logits, targets, positive)
    box = _box_loss(raw, boxes, rows, positive)
    return _total(combine(classification), combine(box), combine(positive.sum()))


def _total(classification: Tensor, box: Tensor, positives: Tensor) -> DetectionLoss:
    normalizer = positives + 1.0
    classification = classification / normalizer
    box = box / (normalizer * 4)
    return DetectionLoss(classification + BOX_WEIGHT * box, classification, box, positives)


class _FocalLoss(torch.autograd.Function):
    """`_focal_loss` with its gradient, computed together."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets, positive)
        loss, ctx.gradient = _focal_loss(logits, targets, positive, ctx.needs_input_grad[0])
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, positive = ctx.saved_tensors
        gradient = ctx.gradient
        if gradient is None:  # asked for again
            gradient = _focal_loss(logits, targets, positive, True)[1]
        ctx.gradient = None  # scaled where it lies, it serves once: a second array takes as long as half the loss
        return gradient.mul_(upstream).to(logits.dtype), None, None


def _focal_loss(
    logits: Float[Tensor, "b n k"], targets: Int[Tensor, "b n"], positive: Bool[Tensor, "b n"], with_gradient: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, "b n k"] | None]:
    """Return the summed focal loss of logits, and its gradient if it is wanted.

    Args:
        logits: of any float type.
        targets: the class that is present where `positive`; anything elsewhere.
        positive: whether one is.
        with_gradient: whether the gradient is wanted.
    """
    classes = logits.shape[2]
    flat, targets, positive = logits.reshape(-1, classes), targets.reshape(-1), positive.reshape(-1)
    # float16 is too narrow for the slope of a logit that is background and looks like it
    dtype = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    gradient = torch.empty_like(flat, dtype=dtype) if with_gradient else None
    size = torch.get_num_threads() * _LOGITS_PER_THREAD if flat.device.type == "cpu" else _LOGITS_AT_ONCE
    rows = max(1, size // classes)
    sums = [flat.new_zeros((), dtype=torch.float32)]
    for start in range(0, len(flat), rows):
        piece = slice(start, start + rows)
        loss, slope = _focal(flat[piece].float(), 1 - ALPHA)  # as if every class were absent
        chosen = _worth_a_look(positive[piece])
        if len(chosen):
            # put right before it is summed: taken from the sum again, it would leave its last digits
            wanted, places = positive[piece][chosen], (chosen, targets[piece][chosen])
            present, present_slope = _focal(-flat[piece][places].float(), ALPHA)
            loss[places] = torch.where(wanted, present, loss[places])
            slope[places] = torch.where(wanted, -present_slope, slope[places])
        sums.append(loss.sum())
        if gradient is not None:
            gradient[piece] = slope
    return torch.stack(sums).sum(), None if gradient is None else gradient.view(logits.shape)


def _focal(x: Float[Tensor, "*n"], weight: float) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Return weight * sigmoid(x)^GAMMA * softplus(x), the loss of logits whose class is absent, and its derivative."""
    probability, softplus = x.sigmoid(), F.softplus(x)
    scale = probability.sqrt().mul_(probability).mul_(weight)  # ** GAMMA, for which pow takes many times as long
    slope = torch.addcmul(softplus, probability, softplus, value=-1).mul_(GAMMA).add_(probability).mul_(scale)
    return scale.mul_(softplus), slope


def _box_loss(
    raw: RawDetections, boxes: Float[Tensor, "b m 4"], rows: Int[Tensor, "b n"], positive: Bool[Tensor, "b n"]
) -> Float[Tensor, ""]:
    batch, count = positive.shape
    flat = positive.reshape(-1)
    chosen = _worth_a_look(flat)
    wanted = flat[chosen, None]
    anchors = raw.anchors[chosen % count]
    first_rows = torch.arange(batch, device=flat.device)[:, None] * boxes.shape[1]
    assigned = boxes.reshape(-1, 4)[(rows + first_rows).reshape(-1)[chosen]]
    safe = torch.where(wanted, assigned, anchors)  # keeps the logarithm finite where nothing is assigned
    target = encode_boxes(safe, anchors)
    deltas = raw.box_deltas.reshape(-1, 4)[chosen].float()
    loss = F.huber_loss(deltas, target, reduction="none", delta=HUBER_DELTA)
    # as in the original, a component that needs no correction at all is not trained
    return torch.where(wanted & (target != 0), loss, 0.0).sum()


def _worth_a_look(positive: Bool[Tensor, " n"]) -> Int[Tensor, " _"]:
    """Return the places of the positive anchors, or of all where counting them would be to wait for the device."""
    if positive.device.type == "cpu":
        return positive.nonzero()[:, 0]
    return torch.arange(len(positive), device=positive.device)
