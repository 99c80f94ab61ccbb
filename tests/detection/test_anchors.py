import pytest
import torch
from effdet.anchors import Anchors, get_feat_sizes
from effdet_peer import swapped

from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.variants import DETECTORS

ROUNDED, EXACT = DETECTORS["efficientdet_d0"].aspects, DETECTORS["efficientdetv2_dt"].aspects


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (300, 500), (512, 512), (8, 1200), (1, 1)])
@pytest.mark.parametrize("scale", [3.0, 4.0, 5.0])
@pytest.mark.parametrize(
    ("aspects", "theirs"), [(ROUNDED, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)]), (EXACT, [1.0, 2.0, 0.5])]
)
def test_anchors_are_effdets_to_the_bit_at_any_size(size, scale, aspects, theirs):
    cells = get_feat_sizes(size, 7)[3:]
    ours = anchor_boxes(size, cells, scale, aspects)
    assert torch.equal(ours, swapped(Anchors(3, 7, 3, theirs, scale, size).boxes))


def test_six_levels_are_effdets_too():
    ours = anchor_boxes((256, 384), get_feat_sizes((256, 384), 8)[3:], 4.0, ROUNDED)
    assert torch.equal(ours, swapped(Anchors(3, 8, 3, list(ROUNDED), 4.0, (256, 384)).boxes))


def test_another_number_of_shapes_gives_that_many_anchors_in_each_cell():
    ours = anchor_boxes((64, 64), [(8, 8), (4, 4)], 4.0, ((1.0, 1.0), (2.0, 0.5)))
    assert len(ours) == 3 * 2 * (64 + 16)
    assert torch.equal(ours, swapped(Anchors(3, 4, 3, [(1.0, 1.0), (2.0, 0.5)], 4.0, (64, 64)).boxes))
