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
_OBJECTS_AT_ONCE = 4  # overlaps of so many objects with all anchors exist at a time: more leave the cache


def match_anchors(
    boxes: Float[Tensor, "b m 4"], labels: Int[Tensor, "b m"], anchors: Float[Tensor, "n 4"]
) -> Int[Tensor, "b n"]:
    """Return the row of the object that each anchor is assigned, -1 for background.

    Args:
        boxes: xyxy in the anchors' pixels.
        labels: -1 for rows that hold no object.
        anchors: of all levels.
    """
    sides = torch.stack([*anchors.T, box_area(anchors)])
    exists = (labels != IGNORE) & (box_area(boxes) > 0)
    if not _looks_at_numbers(boxes.device):
        return _match_batch(torch.where(exists[..., None], boxes, 0.0), sides).to(labels.dtype)
    images = zip(boxes, exists, strict=True)
    return torch.stack([_match_image(rows, of_objects, sides) for rows, of_objects in images]).to(labels.dtype)


def _looks_at_numbers(device: torch.device) -> bool:
    """Whether a number is at hand as soon as it is computed; elsewhere the program would wait for the device."""
    return device.type == "cpu"


def _match_image(
    boxes: Float[Tensor, "m 4"], exists: Bool[Tensor, " m"], sides: Float[Tensor, "5 n"]
) -> Int[Tensor, " n"]:
    """Match one image, where it costs little to look for the anchors that matter: most overlap nothing by a half."""
    rows = exists.nonzero()[:, 0]
    best_iou = _just_too_little(sides[0])
    matches = torch.full_like(best_iou, IGNORE, dtype=torch.int64)
    claims = [(sides.new_empty(0), rows.new_empty(0))]
    for start in range(0, len(rows), _OBJECTS_AT_ONCE):
        some = rows[start : start + _OBJECTS_AT_ONCE]
        iou = _overlaps(boxes[some], sides)
        largest = iou.amax(0)
        better = (largest > best_iou).nonzero()[:, 0]  # of equal overlaps the first object keeps it
        matches[better] = some[iou[:, better].argmax(0)]
        torch.maximum(best_iou, largest, out=best_iou)
        claims.append(iou.max(1))
    values, claimed = (torch.cat(parts) for parts in zip(*claims, strict=True))
    anchors, claimants = claimed[values > 0].unique(return_inverse=True)
    first = torch.full_like(anchors, len(exists)).scatter_reduce(0, claimants, rows[values > 0], "amin")
    matches[anchors] = first
    return matches


def _match_batch(boxes: Float[Tensor, "b m 4"], sides: Float[Tensor, "5 n"]) -> Int[Tensor, "b n"]:
    """Match all images together, without a look at a number."""
    best_iou = _just_too_little(sides[0]).expand(len(boxes), -1)
    matches = torch.full_like(best_iou, IGNORE, dtype=torch.int64)
    nobody = boxes.shape[1]
    first = torch.full_like(matches, nobody)
    for start in range(0, boxes.shape[1], _OBJECTS_AT_ONCE):
        iou = _overlaps(boxes[:, start : start + _OBJECTS_AT_ONCE], sides)
        largest, row = iou.max(1)
        matches = torch.where(largest > best_iou, row + start, matches)
        best_iou = torch.maximum(best_iou, largest)
        value, claimed = iou.max(2)
        rows = torch.where(value > 0, torch.arange(start, start + iou.shape[1], device=value.device), nobody)
        first.scatter_reduce_(1, claimed, rows, "amin")
    return torch.where(first != nobody, first, matches)


def _just_too_little(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the largest overlap that makes no positive anchor, as often as there are values."""
    return torch.full_like(values, POSITIVE_IOU).nextafter(torch.zeros_like(values))


def _overlaps(boxes: Float[Tensor, "*b m 4"], sides: Float[Tensor, "5 n"]) -> Float[Tensor, "*b m n"]:
    """Return `box_iou` of boxes and anchors that have an area, in few passes over memory; below 0 for none."""
    left, top, right, bottom, area = sides
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)
    intersection = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    intersection.mul_(torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)))
    union = (box_area(boxes)[..., None] + area).sub_(intersection)
    return intersection.div_(union)
