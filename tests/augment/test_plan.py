"""Where each pixel goes, decided before any is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.augment import AugmentPolicy, affine
from densenet_suite.augment.plan import Plan, Span
from densenet_suite.geometry import resize

CANVAS = (64, 96)
EIGHT = AugmentPolicy(flip=0.5, vertical_flip=0.5, rotate90=1, scale=(0.3, 2.5))
TURNED = AugmentPolicy(flip=0.5, rotate90=0.5, rotate=180, scale=(0.3, 2.5))


def _plan(seed, source, policy, **options):
    return Plan.draw(source, CANVAS, policy, np.random.default_rng(seed), **options)


def _where(source):
    """An image that shows where each pixel came from, (x, y) of its centre."""
    rows, columns = np.mgrid[: source[0], : source[1]]
    return np.stack([columns + 0.5, rows + 0.5, np.ones(source)], 2).astype(np.float32)


def _moved_centres(plan):
    """Where the centre of each pixel of the canvas comes from, by the matrix."""
    rows, columns = np.mgrid[: plan.canvas[0], : plan.canvas[1]]
    centres = np.stack([columns + 0.5, rows + 0.5], 2).astype(np.float64)
    return affine.moved(centres, np.linalg.inv(plan.matrix))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 2**62), st.tuples(st.integers(1, 200), st.integers(1, 200)), st.sampled_from([EIGHT, TURNED]))
def test_pixels_and_matrix_agree_for_any_size(seed, source, policy):
    plan = _plan(seed, source, policy)
    image = plan.image(_where(source), (0, 0, 0))
    assert image.shape == (*CANVAS, 3)
    expected = _moved_centres(plan)
    whole = image[..., 2] > 0.999
    # at the border of the picture interpolation repeats the last pixel
    inside = whole & ((expected > 1.5) & (expected < np.array(source[::-1]) - 1.5)).all(-1)
    if inside.any():
        tolerance = 0.75 * max(1, 1 / min(plan.rows.scale, plan.columns.scale))
        assert np.abs(image[inside][:, :2] - expected[inside]).max() < tolerance
    outside = ((expected < -1 / plan.columns.scale) | (expected > np.array(source[::-1]) + 1 / plan.rows.scale)).any(-1)
    assert (image[outside][:, 2] < 0.6).all()


@pytest.mark.parametrize("policy", [EIGHT, TURNED])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_picture_that_was_decoded_smaller_gives_the_same_place(policy, reduction):
    source = (203, 301)
    smaller = tuple(-(-side // reduction) for side in source)
    reduced = resize(_where(source), *smaller)
    checked = 0
    for seed in range(60):
        plan = _plan(seed, source, policy)
        if plan.least[0] > smaller[0] or plan.least[1] > smaller[1]:
            continue
        checked += 1
        image = plan.image(reduced, (0, 0, 0))
        expected = _moved_centres(plan)
        inside = image[..., 2] > 0.999
        margin = 2 * reduction
        inside &= ((expected > margin) & (expected < np.array(source[::-1]) - margin)).all(-1)
        if inside.any():
            scale = np.array([plan.columns.scale, plan.rows.scale])
            if plan.quarters % 2:
                scale = scale[::-1]
            off = np.abs(image[inside][:, :2] - expected[inside]) * scale.min()
            assert off.max() < 1  # of a pixel of the canvas
    if reduction < 8:
        assert checked >= 3


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 2**62), st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_the_least_picture_has_a_pixel_for_each_that_is_seen(seed, source):
    plan = _plan(seed, source, EIGHT)
    for side, whole, span in zip(plan.least, source, (plan.rows, plan.columns), strict=True):
        assert 1 <= side <= whole
        assert side == whole or side * span.length / whole >= span.extent - 1e-6
        assert side == 1 or (side - 1) * span.length / whole < span.extent + 1e-6  # and not one more


def test_a_plan_needs_no_pixels_and_follows_from_its_seed():
    for policy in (EIGHT, TURNED):
        first, again, other = (_plan(seed, (480, 640), policy) for seed in (3, 3, 4))
        assert repr(first) == repr(again) != repr(other)


def test_no_more_than_the_window_is_resized(monkeypatch):
    from densenet_suite.augment import plan as module

    seen = []
    real = module.shrink_or_enlarge
    monkeypatch.setattr(
        module, "shrink_or_enlarge", lambda image, *size: seen.append(image.shape) or real(image, *size)
    )
    plan = _plan(0, (640, 960), AugmentPolicy(scale=(4, 4)))
    plan.image(np.zeros((640, 960, 3), np.uint8), (0, 0, 0))
    assert seen == [(160, 240, 3)]


def test_a_warp_reads_no_more_than_what_it_shows(monkeypatch):
    from densenet_suite.augment import plan as module

    seen = []
    real = module.shrink_or_enlarge
    monkeypatch.setattr(
        module, "shrink_or_enlarge", lambda image, *size: seen.append(image.shape) or real(image, *size)
    )
    for seed in range(10):
        _plan(seed, (640, 960), AugmentPolicy(scale=(4, 4), rotate=45)).image(
            np.zeros((640, 960, 3), np.uint8), (0,) * 3
        )
    assert max(max(shape[:2]) for shape in seen) < 300  # the diagonal of 160 x 240, and a few pixels


def test_what_turns_into_view_is_the_picture_around_it():
    image = np.full((640, 640, 1), 200, np.uint8)
    turned = [_plan(seed, (640, 640), AugmentPolicy(scale=(6, 6), rotate=10)).image(image, (0,)) for seed in range(20)]
    assert np.mean([(crop == 200).all() for crop in turned]) > 0.5  # others lie at the border


def test_the_canvas_is_all_filling_where_nothing_of_the_picture_is_left():
    plan = _plan(0, (64, 96), AugmentPolicy(), warp=affine.scaling(1, 1, 500, 0))
    assert (plan.image(np.zeros((64, 96, 3), np.uint8), (7, 8, 9)) == (7, 8, 9)).all()
    assert plan.boxes(np.array([[0.0, 0, 10, 10]])).tolist() == [[500, 0, 510, 10]]


def test_a_change_of_colours_leaves_the_filling():
    plan = _plan(0, (64, 96), AugmentPolicy(scale=(0.5, 0.5)))
    changed = plan.image(np.full((64, 96, 1), 50, np.uint8), (7,), lambda piece: piece + 100)
    assert np.unique(changed, return_counts=True)[1].tolist() == [64 * 96 - 32 * 48, 32 * 48]
    assert set(np.unique(changed).tolist()) == {7, 150}


def test_a_part_of_a_canvas_is_scaled_as_the_whole():
    whole = _plan(0, (64, 96), AugmentPolicy())
    part = Plan.draw((64, 96), (30, 40), AugmentPolicy(), np.random.default_rng(0), fitted=CANVAS)
    assert (part.rows.scale, part.columns.scale) == (whole.rows.scale, whole.columns.scale) == (1, 1)
    assert (part.rows.length, part.columns.length) == (30, 40)


@pytest.mark.parametrize(("side", "resized", "room"), [(100, 50, 80), (100, 80, 80), (100, 200, 80), (3, 900, 80)])
def test_a_side_is_padded_or_cut_at_every_place_alike(side, resized, room):
    spans = [Span.draw(side, resized, room, np.random.default_rng(seed)) for seed in range(400)]
    for span in spans:
        assert 0 <= span.start <= span.start + span.length <= side
        assert 0 <= span.offset <= span.offset + span.extent <= room
        assert span.extent == min(resized, room)
    places = [span.offset if resized <= room else span.start for span in spans]
    most = room - resized if resized <= room else side - spans[0].length
    assert (min(places), max(places)) == (0, most)
    assert np.mean(places) == pytest.approx(most / 2, abs=0.1 * most + 1e-9)
