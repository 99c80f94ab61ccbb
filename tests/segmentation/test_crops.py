"""Where crops for training are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from densenet_suite.segmentation.crops import choose_crop

sides = st.integers(1, 40)


def _draws(mask, size, share, count=200):
    return [choose_crop(mask, size, np.random.default_rng(seed), share) for seed in range(count)]


def _rare(height=60, width=80):
    """A mask of class 0 with three pixels of class 7."""
    mask = np.zeros((height, width), np.uint8)
    mask[50, 70:73] = 7
    return mask


@repeatable
@given(
    sides, sides, sides, sides, st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0, 3, 255])
)
def test_a_crop_lies_inside_the_image_or_holds_all_of_it(height, width, tall, wide, seed, share, value):
    mask = np.full((height, width), value, np.uint8)
    top, left = choose_crop(mask, (tall, wide), np.random.default_rng(seed), share)
    for place, inside, side in ((top, height, tall), (left, width, wide)):
        assert min(0, inside - side) <= place <= max(0, inside - side)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("shape", [(30, 40), (2, 30, 40)])
def test_a_mask_of_nothing_but_background_or_unlabelled_pixels_is_cropped_anywhere(value, shape):
    draws = np.array(_draws(np.full(shape, value, np.uint8), (10, 10), 1.0, 2000))
    assert draws.min(0).tolist() == [0, 0]
    assert draws.max(0).tolist() == [20, 30]
    np.testing.assert_allclose(draws.mean(0), [10, 15], atol=1)


def test_a_rare_class_is_seen_as_often_as_a_frequent_one():
    mask = _rare()
    seen = [bool((mask[top : top + 8, left : left + 8] == 7).any()) for top, left in _draws(mask, (8, 8), 1.0, 1000)]
    assert np.mean(seen) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_share_by_class_is_met(share):
    mask = np.full((60, 80), 255, np.uint8)
    mask[30, 40] = 2  # the only labelled pixel, so that each choice by class is the same
    centred = [draw == (30 - 5, 40 - 5) for draw in _draws(mask, (10, 10), share, 1000)]
    assert np.mean(centred) == pytest.approx(share, abs=0.05)


def test_every_pixel_of_a_class_is_as_likely():
    mask = np.full((40, 40), 255, np.uint8)
    mask[20, 10:14] = 1
    columns = np.array([left + 2 for _, left in _draws(mask, (5, 5), 1.0, 2000)])
    counts = np.bincount(columns, minlength=14)[10:14]
    assert counts.sum() == 2000
    assert counts.min() > 400


def test_a_crop_around_a_pixel_at_the_border_stays_inside():
    mask = np.full((40, 40), 255, np.uint8)
    mask[0, 39] = 1
    assert set(_draws(mask, (10, 10), 1.0, 20)) == {(0, 30)}


def test_unlabelled_pixels_are_not_a_class():
    mask = np.full((40, 40), 255, np.uint8)
    mask[20, 20] = 254
    assert set(_draws(mask, (11, 11), 1.0, 50)) == {(15, 15)}


def test_overlapping_classes_are_found_by_their_ones():
    mask = np.zeros((3, 40, 40), np.uint8)
    mask[0] = 255
    mask[1, 10, 10] = mask[2, 30, 30] = 1
    draws = _draws(mask, (11, 11), 1.0, 400)
    assert set(draws) == {(5, 5), (25, 25)}
    assert np.mean([draw == (5, 5) for draw in draws]) == pytest.approx(0.5, abs=0.1)


def test_a_single_overlapping_class_has_no_background():
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, 20, 20] = 1
    assert set(_draws(mask, (11, 11), 1.0, 50)) == {(15, 15)}


def test_the_generator_decides():
    mask = np.random.default_rng(0).integers(0, 5, (50, 60)).astype(np.uint8)
    assert _draws(mask, (9, 9), 0.5) == _draws(mask, (9, 9), 0.5)
    assert len(set(_draws(mask, (9, 9), 0.5))) > 150
