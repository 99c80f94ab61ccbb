"""Coordinates survive being written as text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.detection.coordinates import (
    count_from_one,
    count_from_zero,
    plain,
    side_between,
    to_corners,
    to_shares,
)

ANY = st.floats(-1e6, 1e6)
MANY = settings(max_examples=200, derandomize=True, deadline=None)


@given(ANY)
@MANY
def test_counting_from_one_and_back_changes_nothing(value):
    assert count_from_zero(count_from_one(value)) == value


def test_numbers_are_written_as_people_would():
    assert [count_from_one(value) for value in (0.0, 12.0, 0.1, -3.25)] == ["1", "13", "1.1", "-2.25"]
    assert [plain(value) for value in (0.0, 640.0, 12.34)] == ["0", "640", "12.34"]


@given(st.lists(st.floats(1e-12, 1), min_size=4, max_size=4), st.integers(1, 20_000), st.integers(1, 20_000))
@MANY
def test_shares_give_the_same_corners_again(parts, height, width):
    x1, x2 = sorted(part * width for part in parts[:2])
    y1, y2 = sorted(part * height for part in parts[2:])
    texts, error = to_shares((x1, y1, x2, y2), height, width)
    assert error == 0
    assert to_corners(texts, height, width) == (x1, y1, x2, y2)


@pytest.mark.parametrize("width", [3, 7, 333, 640])
def test_a_box_at_the_border_stays_at_it(width):
    for x2 in (1.0, 2.0, float(width)):
        texts, error = to_shares((0.0, 0.0, x2, 1.0), width, width)
        assert error == 0
        assert to_corners(texts, width, width)[0] == 0


def test_shares_that_end_are_short():
    assert to_shares((64.0, 120.0, 192.0, 240.0), 480, 640) == (["0.200000", "0.375000", "0.200000", "0.250000"], 0.0)


def test_what_is_left_of_error_is_told():
    texts, error = to_shares((1e-60, 0.0, 1.0, 1.0), 3, 3)
    assert 0 < error < 1e-39
    assert to_corners(texts, 3, 3) == pytest.approx((0, 0, 1, 1), abs=1e-39)


@given(st.floats(0, 1e5), st.floats(1e-6, 1e5))
@MANY
def test_a_side_leads_to_the_other_corner(low, side):
    high = low + side
    assert low + side_between(low, high) == high


@given(ANY, ANY)
@MANY
def test_no_float_leads_nearer(low, high):
    side = side_between(low, high)
    for other in (np.nextafter(side, -np.inf), np.nextafter(side, np.inf)):
        assert abs(low + side - high) <= abs(low + float(other) - high)
