"""Which object each anchor is to find: by overlap, and every object has its best anchor.

Reference: EfficientDet's code (ArgMaxMatcher with force matching): an anchor takes the object it overlaps most, from an
IoU of 0.5; then each object takes the anchor that overlaps it most, whatever their overlap. Where several objects claim
one anchor, the first keeps it. Differs in one point: an object that overlaps no anchor claims none.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from densenet_suite.detection.boxes import box_iou
from densenet_suite.detection.structures import IGNORE

POSITIVE_IOU = 0.5
_OBJECTS_AT_ONCE = 16  # bounds the memory: overlaps of so many objects with all anchors exist at a time


def match_anchors(
    boxes: Float[Tensor, "b m 4"], labels: Int[Tensor, "b m"], anchors: Float[Tensor, "n 4"]
) -> Int[Tensor, "b n"]:
    """Return the row of the object that each anchor is assigned, -1 for background.

    Args:
        boxes: xyxy in the anchors' pixels.
        labels: -1 for rows that hold no object.
        anchors: of all levels.
    """
    batch, objects = labels.shape
    best_iou = boxes.new_zeros(batch, len(anchors))
    matches = labels.new_full((batch, len(anchors)), IGNORE)
    claimed = matches.clone()
    for start in range(0, objects, _OBJECTS_AT_ONCE):
        rows = slice(start, start + _OBJECTS_AT_ONCE)
        iou = box_iou(boxes[:, rows], anchors)
        iou = torch.where((labels[:, rows] != IGNORE)[..., None], iou, -1.0)
        value, row = iou.max(1)
        better = value > best_iou  # of equal overlaps the first object keeps the anchor
        best_iou = torch.where(better, value, best_iou)
        matches = torch.where(better, row + start, matches)
        claimed = _claim(claimed, iou, start)
    matches = torch.where(best_iou >= POSITIVE_IOU, matches, IGNORE)
    return torch.where(claimed != IGNORE, claimed, matches)


def _claim(claimed: Int[Tensor, "b n"], iou: Float[Tensor, "b m n"], start: int) -> Int[Tensor, "b n"]:
    """Let the objects of a chunk claim their best anchors, unless an earlier object has claimed them."""
    value, anchor = iou.max(2)
    batch, objects = anchor.shape
    row = torch.arange(start, start + objects, device=anchor.device).expand(batch, objects)
    nobody = torch.iinfo(claimed.dtype).max
    row = torch.where(value > 0, row, nobody)
    first = torch.full_like(claimed, nobody).scatter_reduce(1, anchor, row.to(claimed.dtype), "amin")
    return torch.where((claimed == IGNORE) & (first != nobody), first, claimed)
