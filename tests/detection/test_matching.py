"""The assignment is that of reference_matching.py; parity/test_targets_against_effdet.py holds it against effdet."""

from unittest.mock import patch

import torch
from detection.reference_matching import reference_matches
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.structures import IGNORE
from densenet_suite.detection.variants import DETECTORS

ANCHORS = anchor_boxes((64, 64), [(8, 8), (4, 4), (2, 2)], 4.0, DETECTORS["efficientdet_d0"].aspects)


def match(*boxes, labels=None):
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    given_labels = torch.zeros(1, rows.shape[1], dtype=torch.int64) if labels is None else torch.tensor([labels])
    return match_anchors(rows, given_labels, ANCHORS)[0]


def test_an_image_without_objects_is_all_background():
    assert (match() == IGNORE).all()


def test_rows_that_hold_no_object_claim_nothing():
    assert (match((0, 0, 32, 32), labels=[IGNORE]) == IGNORE).all()


def test_every_object_has_an_anchor_however_small_it_is():
    boxes = [(x, y, x + 2, y + 2) for x in (4, 56) for y in (4, 56)]
    assert set(match(*boxes).unique().tolist()) == {IGNORE, 0, 1, 2, 3}


def test_of_two_equal_objects_the_first_keeps_all_anchors():
    matches = match((8, 8, 40, 40), (8, 8, 40, 40))
    assert (matches == 0).sum() > 0
    assert (matches == 1).sum() == 0


def test_an_object_outside_of_all_anchors_claims_none():
    assert (match((500, 500, 540, 540)) == IGNORE).all()


@repeatable
@given(st.integers(1, 40), st.integers(0, 2**16))
def test_objects_are_matched_alike_whether_many_or_few_are_looked_at_together(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(1, count, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + torch.rand(1, count, 2, generator=generator) * 30 + 1], -1)
    labels = torch.zeros(1, count, dtype=torch.int64)
    empty = torch.zeros(1, 16, 4)
    padded = torch.cat([empty, boxes], 1)  # moves every object into another chunk
    moved = match_anchors(padded, torch.cat([torch.full((1, 16), IGNORE), labels], 1), ANCHORS)
    alone = match_anchors(boxes, labels, ANCHORS)
    assert torch.equal(torch.where(alone == IGNORE, IGNORE, alone + 16), moved)


def test_images_of_a_batch_do_not_see_each_other():
    boxes = torch.tensor([[[0.0, 0, 32, 32]], [[20.0, 24, 60, 50]]])
    labels = torch.zeros(2, 1, dtype=torch.int64)
    both = match_anchors(boxes, labels, ANCHORS)
    assert torch.equal(both[1:], match_anchors(boxes[1:], labels[1:], ANCHORS))


@st.composite
def scenes(draw):
    """Boxes on whole and half pixels, so that overlaps tie; some without area, inside out, outside or not a number."""
    count = draw(st.integers(0, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    corners = torch.randint(-10, 140, (2, count, 2), generator=generator) / 2
    sizes = torch.randint(draw(st.sampled_from([-8, 0, 1])), 80, (2, count, 2), generator=generator) / 2
    boxes = torch.cat([corners, corners + sizes], 2)
    boxes[:, 5::9] = boxes[:, 3::9][:, : len(range(5, count, 9))]  # twice the same
    boxes[:, 30::7] = torch.nan
    labels = torch.randint(IGNORE, 3, (2, count), generator=generator)
    return boxes, labels


@repeatable
@given(scenes())
def test_any_objects_are_matched_as_by_the_reference(scene):
    expected = reference_matches(*scene, ANCHORS)
    assert torch.equal(match_anchors(*scene, ANCHORS), expected)
    with patch("densenet_suite.detection.matching._looks_at_numbers", return_value=False):
        assert torch.equal(match_anchors(*scene, ANCHORS), expected)
