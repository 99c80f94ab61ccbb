"""The assignment in its readable form: what `densenet_suite.detection.matching` computes in fewer passes."""

import torch
from torch import Tensor

from densenet_suite.detection.boxes import box_iou
from densenet_suite.detection.matching import POSITIVE_IOU
from densenet_suite.detection.structures import IGNORE


def reference_matches(boxes: Tensor, labels: Tensor, anchors: Tensor) -> Tensor:
    if labels.shape[1] == 0:
        return labels.new_full((len(labels), len(anchors)), IGNORE)
    iou = torch.where((labels != IGNORE)[..., None], box_iou(boxes, anchors), -1.0)
    value, row = iou.max(1)
    matches = torch.where(value >= POSITIVE_IOU, row, IGNORE)
    value, anchor = iou.max(2)
    for image in range(len(labels)):
        for claimant in reversed(range(labels.shape[1])):  # the first has the last word
            if value[image, claimant] > 0:
                matches[image, anchor[image, claimant]] = claimant
    return matches
