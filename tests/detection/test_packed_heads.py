"""Heads packed onto one canvas beside the heads themselves, on a CPU in float64."""

import pytest
import torch
from peers import apart, randomize

from densenet_suite import create_detector, fuse
from densenet_suite.detection.heads import PredictionHead
from densenet_suite.detection.model import NORM
from densenet_suite.detection.packed_heads import PackedHeads, is_quicker

CHANNELS = 8
PYRAMIDS = {
    "squares": [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)],
    "odd": [(13, 21), (7, 11), (4, 6), (2, 3), (1, 2)],
    "wide, so that the coarse ones are higher together": [(3, 40), (2, 20), (1, 10), (1, 5), (1, 3)],
    "high": [(40, 3), (20, 2), (10, 1), (5, 1), (3, 1)],
    "two levels of a size": [(4, 4), (4, 4)],
}


def heads(levels, act):
    def head(outputs):
        return PredictionHead(CHANNELS, outputs, 9, repeats=2, levels=levels, act=act, norm=NORM, bias=-1.0)

    return [randomize(part).eval().double().requires_grad_(False) for part in (head(5), head(4))]


@pytest.mark.parametrize("act", ["silu", "relu", "relu6"])
@pytest.mark.parametrize("sizes", PYRAMIDS.values(), ids=PYRAMIDS.keys())
@torch.no_grad()
def test_packed_heads_give_the_same_answer(sizes, act):
    parts = heads(len(sizes), act)
    features = [torch.randn(2, CHANNELS, *size, dtype=torch.float64) for size in sizes]
    for ours, head in zip(PackedHeads(parts)(features), parts, strict=True):
        assert ours.shape == (2, sum(rows * columns for rows, columns in sizes) * 9, head.outputs)
        assert apart(ours, head(features)) < 1e-13


@torch.no_grad()
def test_packed_heads_of_a_fused_detector_are_its_heads():
    network = fuse(randomize(create_detector("tf_efficientdet_d0", num_classes=5)).eval().double(), torch.float64)
    pyramid = network.pyramid(torch.randn(1, 3, 65, 130, dtype=torch.float64))
    classes, boxes = network.packed_heads(pyramid)
    assert apart(classes, network.class_head(pyramid)) < 1e-13
    assert apart(boxes, network.box_head(pyramid)) < 1e-13


def test_small_levels_on_a_device_are_packed(monkeypatch):
    small, large = ([torch.empty(1, 64, side, side, device="meta")] for side in (64, 129))
    assert is_quicker(small)
    assert not is_quicker(large)
    assert not is_quicker([torch.empty(1, 64, 4, 4)])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not is_quicker(small)


def test_what_learns_is_not_packed():
    assert create_detector("efficientdet_d0", num_classes=5).packed_heads is None
