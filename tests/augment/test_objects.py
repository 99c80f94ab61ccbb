"""Boxes, where each comes from, and how much is left in sight."""

import numpy as np
import pytest

from densenet_suite.augment.objects import Objects

CANVAS = (60, 80)


def _objects(boxes, least=0.0, index=0):
    return Objects.in_sight(np.array(boxes, np.float64).reshape(-1, 4), index, CANVAS, least)


def test_boxes_are_clipped_and_their_share_is_what_is_left():
    objects = _objects([[-10, 0, 10, 20], [70, 50, 90, 70], [0, 0, 80, 60]], index=5)
    assert objects.boxes.tolist() == [[0, 0, 10, 20], [70, 50, 80, 60], [0, 0, 80, 60]]
    assert objects.shares.tolist() == [0.5, 0.25, 1]
    assert objects.origins.tolist() == [[5, 0], [5, 1], [5, 2]]


def test_what_is_outside_or_a_sliver_is_dropped_and_the_others_keep_their_rows():
    objects = _objects([[-20, 0, -1, 20], [10, 10, 20, 20], [5, 5, 5, 20], [5, 5, 5.5, 20], [79.5, 0, 99, 9]])
    assert objects.origins.tolist() == [[0, 1]]


@pytest.mark.parametrize(("least", "kept"), [(0.0, [0, 1]), (0.3, [0]), (0.6, [])])
def test_less_than_the_least_share_is_dropped(least, kept):
    assert _objects([[-10, 0, 10, 20], [75, 50, 95, 60]], least).origins[:, 1].tolist() == kept


def test_no_boxes_stay_none():
    objects = _objects([])
    assert (objects.boxes.shape, objects.origins.shape, objects.shares.shape) == ((0, 4), (0, 2), (0,))
    assert objects.behind(np.ones(CANVAS, np.uint8), 0.5).boxes.shape == (0, 4)


def test_covers_are_counted_pixel_by_pixel():
    rng = np.random.default_rng(0)
    cover = rng.integers(0, 2, CANVAS).astype(np.uint8)
    corners = np.sort(rng.integers(0, 60, (40, 2, 2)), 1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 1], 1).astype(np.float64)
    objects = _objects(boxes)
    counted = [cover[int(y1) : int(y2), int(x1) : int(x2)].mean() for x1, y1, x2, y2 in objects.boxes]
    assert objects.covered(cover) == pytest.approx(counted)


def test_a_box_at_the_border_is_counted_too():
    cover = np.ones(CANVAS, np.uint8)
    assert _objects([[79, 59, 80, 60], [0, 0, 80, 60]]).covered(cover).tolist() == [1, 1]


def test_what_a_crop_and_a_cover_leave_is_their_product():
    cover = np.zeros(CANVAS, np.uint8)
    cover[:10] = 1
    objects = _objects([[-10, 0, 10, 20], [20, 0, 40, 20]])
    left = objects.behind(cover, 0.3)
    assert left.origins[:, 1].tolist() == [1]
    assert objects.behind(cover, 0.2).shares.tolist() == [0.25, 0.5]


def test_several_pictures_are_joined_with_their_origins():
    first, second = _objects([[0, 0, 9, 9]], index=3), _objects([[-9, 0, -1, 9], [5, 5, 20, 20]], index=4)
    joined = Objects.joined([first, second.moved(10, 20)])
    assert joined.origins.tolist() == [[3, 0], [4, 1]]
    assert joined.boxes.tolist() == [[0, 0, 9, 9], [25, 15, 40, 30]]
    assert joined.taken(np.array([False, True])).origins.tolist() == [[4, 1]]
