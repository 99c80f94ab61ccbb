"""The boxes are those of the paper's rule, and effdet's to the bit."""

import pytest
import torch
from effdet.anchors import Anchors, get_feat_sizes
from effdet_peer import swapped
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

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


def by_the_rule(size, cells, scale, aspects):
    """One after the other, fine to coarse, row by row: three octaves of each shape around the middle of each cell."""
    boxes = []
    for rows, columns in cells:
        high, wide = size[0] / rows, size[1] / columns
        for row in range(rows):
            for column in range(columns):
                y, x = (row + 0.5) * high, (column + 0.5) * wide
                for octave in range(3):
                    for width, height in aspects:
                        half_x = scale * wide * 2 ** (octave / 3) * width / 2
                        half_y = scale * high * 2 ** (octave / 3) * height / 2
                        boxes.append((x - half_x, y - half_y, x + half_x, y + half_y))
    return torch.tensor(boxes, dtype=torch.float64)


@repeatable
@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    st.floats(0.5, 8),
    st.lists(st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)), min_size=1, max_size=4),
)
def test_anchors_are_those_of_the_rule(size, cells, scale, aspects):
    found = anchor_boxes(size, cells, scale, aspects)
    expected = by_the_rule(size, cells, scale, aspects)
    # float64 rounded once to float32; where a side lies at 0, what float64 has left of the two halves
    torch.testing.assert_close(found.double(), expected, rtol=2**-24, atol=1e-10)
