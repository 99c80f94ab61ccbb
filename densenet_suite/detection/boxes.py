"""Arithmetic of boxes: xyxy in pixels, always in float32 or better, whatever precision the network runs in."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# a box grows to at most 62.5 times its anchor: beyond, exp() overflows long before it means anything
_MAX_LOG_FACTOR = math.log(1000 / 16)
# and moves by at most 10,000 times its size, which is farther than any picture is wide: a box at infinity would take
# all others with it into the suppression
_MAX_SHIFT = 1e4
_EPSILON = 1e-7


def box_area(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Return areas in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: Float[Tensor, "*b m 4"], b: Float[Tensor, "n 4"]) -> Float[Tensor, "*b m n"]:
    """Return intersection over union of every box of `a` with every box of `b`; 0 where neither has an area."""
    widths = torch.minimum(a[..., :, None, 2], b[:, 2]) - torch.maximum(a[..., :, None, 0], b[:, 0])
    heights = torch.minimum(a[..., :, None, 3], b[:, 3]) - torch.maximum(a[..., :, None, 1], b[:, 1])
    intersection = widths.clamp(min=0) * heights.clamp(min=0)
    union = box_area(a)[..., :, None] + box_area(b) - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def encode_boxes(boxes: Float[Tensor, "*b 4"], anchors: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Return (dy, dx, dh, dw) that move and stretch each anchor onto its box.

    Reference: Ren et al., Faster R-CNN, arXiv:1506.01497, equation 2, without scale factors.
    """
    sizes = boxes[..., 2:] - boxes[..., :2]
    anchor_sizes = anchors[..., 2:] - anchors[..., :2]
    centres = boxes[..., :2] + sizes / 2
    anchor_centres = anchors[..., :2] + anchor_sizes / 2
    anchor_sizes = anchor_sizes + _EPSILON
    shifts = (centres - anchor_centres) / anchor_sizes
    factors = torch.log((sizes + _EPSILON) / anchor_sizes)
    return torch.cat([shifts.flip(-1), factors.flip(-1)], -1)


def decode_boxes(deltas: Float[Tensor, "*b 4"], anchors: Float[Tensor, "*c 4"]) -> Float[Tensor, "*b 4"]:
    """Return the boxes that (dy, dx, dh, dw) make of the anchors; finite for any finite deltas."""
    deltas = deltas.float()
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    sizes = anchors[..., 2:] - anchors[..., :2]
    shifts, factors = deltas[..., :2].flip(-1), deltas[..., 2:].flip(-1)
    half = sizes * factors.clamp(max=_MAX_LOG_FACTOR).exp() / 2
    centres = centres + sizes * shifts.clamp(-_MAX_SHIFT, _MAX_SHIFT)
    return torch.cat([centres - half, centres + half], -1)


def clip_boxes(boxes: Float[Tensor, "*b 4"], height: float, width: float) -> Float[Tensor, "*b 4"]:
    """Return the boxes cut off at the image's border."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
