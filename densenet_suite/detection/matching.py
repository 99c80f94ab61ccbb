"""Which object each anchor is to find: by overlap, and every object has its best anchor.

Reference: EfficientDet's code (ArgMaxMatcher with force matching): an anchor takes the object it overlaps most, from an
IoU of 0.5; then each object takes the anchor that overlaps it most, whatever their overlap. Where several objects claim
one anchor, the first keeps it. Differs in one point: an object that overlaps no anchor claims none. The readable form,
which this one equals to the bit in fewer passes over memory, is in tests/detection/reference_matching.py.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densenet_suite.detection.boxes import box_area
from densenet_suite.detection.structures import IGNORE

POSITIVE_IOU = 0.5
_OBJECTS_AT_ONCE = 8  # overlaps of so many objects with all anchors exist at a time: more leave the cache


def match_anchors(
    boxes: Float[Tensor, "b m 4"], labels: Int[Tensor, "b m"], anchors: Float[Tensor, "n 4"]
) -> Int[Tensor, "b n"]:
    """Return the row of the object that each anchor is assigned, -1 for background.

    Args:
        boxes: xyxy in the anchors' pixels.
        labels: -1 for rows that hold no object.
        anchors: of all levels.
    """
    sides = anchors.T.contiguous()
    if boxes.device.type != "cpu":
        return _match(boxes, labels, sides)
    # image by image, without the empty rows at the end: what is compared at a time stays in the cache
    used = [1 + max(row.nonzero()[:, 0].tolist(), default=-1) for row in labels != IGNORE]
    images = zip(boxes[:, None], labels[:, None], used, strict=True)
    return torch.cat([_match(rows[:, :count], names[:, :count], sides) for rows, names, count in images])


def _match(
    boxes: Float[Tensor, "b m 4"], labels: Int[Tensor, "b m"], sides: Float[Tensor, "4 n"]
) -> Int[Tensor, "b n"]:
    if labels.shape[1] == 0:
        return labels.new_full((len(labels), sides.shape[1]), IGNORE)
    exists = (labels != IGNORE) & (box_area(boxes) > 0)
    boxes = torch.where(exists[..., None], boxes, 0.0)  # what overlaps nothing is matched to nothing
    best_iou = boxes.new_zeros(len(boxes), sides.shape[1])
    matches = best_iou.clone()
    claims = []
    for start in range(0, boxes.shape[1], _OBJECTS_AT_ONCE):
        iou = _overlaps(boxes[:, start : start + _OBJECTS_AT_ONCE], sides)
        value, row = _best_object(iou)
        matches = torch.where(value > best_iou, row + start, matches)  # of equal overlaps the first object keeps it
        best_iou = torch.maximum(best_iou, value)
        claims.append(iou.max(2))
    values, claimed = (torch.cat(parts, 1) for parts in zip(*claims, strict=True))
    matches = torch.where(best_iou >= POSITIVE_IOU, matches, IGNORE).to(labels.dtype)
    return _give(matches, claimed, values > 0)


def _give(matches: Int[Tensor, "b n"], claimed: Int[Tensor, "b m"], valid: Bool[Tensor, "b m"]) -> Int[Tensor, "b n"]:
    """Give anchors to the objects that claim them; the first of several has it."""
    nobody = torch.iinfo(matches.dtype).max
    rows = torch.arange(claimed.shape[1], dtype=matches.dtype, device=matches.device)
    rows = torch.where(valid, rows, nobody)
    first = torch.full_like(matches, nobody).scatter_reduce(1, claimed, rows, "amin")
    return torch.where(first != nobody, first, matches)


def _overlaps(boxes: Float[Tensor, "b m 4"], sides: Float[Tensor, "4 n"]) -> Float[Tensor, "b m n"]:
    """Return `box_iou` of boxes and anchors that have an area, in few passes over memory."""
    left, top, right, bottom = sides
    x1, y1, x2, y2 = boxes[..., None].unbind(2)
    intersection = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    intersection.mul_(torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_(min=0))
    union = (box_area(boxes)[..., None] + (right - left) * (bottom - top)).sub_(intersection)
    return intersection.div_(union)


def _best_object(iou: Float[Tensor, "b m n"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Return the largest overlap of each anchor and the row of the first object that has it.

    As `iou.max(1)`, which takes four times as long on the CPU.
    """
    largest = iou.amax(1, keepdim=True)
    rows = torch.arange(iou.shape[1], dtype=iou.dtype, device=iou.device)[:, None]
    smaller = torch.ne(iou, largest, out=torch.empty_like(iou))  # 1 or 0
    return largest[:, 0], smaller.mul_(len(rows)).add_(rows).amin(1)
