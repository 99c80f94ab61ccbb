from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.augment import AugmentPolicy, preset_policy
from densenet_suite.augment.detection import DetectionAugment

STILL = AugmentPolicy()
STANDARD = preset_policy("standard", "detection")
SHAPES_ONLY = AugmentPolicy(flip=0.5, vertical_flip=0.5, scale=(0.5, 1.6), min_visibility=0)
CANVAS = (64, 96)
SOURCE = (80, 110)
NO_BOXES = np.zeros((0, 4))


def _painted(box, source=SOURCE):
    image = np.zeros((*source, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def _extent(mask):
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def _policy(**changes):
    return replace(STILL, **changes)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (*SOURCE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def augment():
    return DetectionAugment(SHAPES_ONLY, CANVAS, (0, 0, 0))


def test_a_seed_decides_everything(photo):
    boxes = np.array([[10.0, 10, 60, 50], [30, 5, 90, 70]])
    first = DetectionAugment(STANDARD, CANVAS, (9, 9, 9))
    for seed in (5, 6, 7):
        first(photo, boxes, seed)  # whatever was drawn before
    again = DetectionAugment(STANDARD, CANVAS, (9, 9, 9))
    for ours, theirs in zip(first(photo, boxes, 2), again(photo, boxes, 2), strict=True):
        assert (ours == theirs).all()


def test_seeds_differ(photo):
    augment = DetectionAugment(STANDARD, CANVAS, (0, 0, 0))
    assert len({augment(photo, NO_BOXES, seed)[0].tobytes() for seed in range(30)}) == 30


def test_a_seed_may_be_of_63_bits(photo, augment):
    assert augment(photo, NO_BOXES, 2**63 - 1)[0].shape == (*CANVAS, 3)


def test_the_image_that_is_given_stays_as_it_is(photo, augment):
    before = photo.copy()
    for seed in range(5):
        augment(photo, NO_BOXES, seed)
    assert (photo == before).all()


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.integers(0, 2**63 - 1), st.integers(0, 80), st.integers(0, 50), st.integers(12, 60), st.integers(12, 60))
def test_boxes_follow_pixels_through_scale_crop_and_flips(seed, x, y, width, height):
    augment = DetectionAugment(SHAPES_ONLY, CANVAS, (0, 0, 0))
    box = (x, y, min(x + width, SOURCE[1]), min(y + height, SOURCE[0]))
    image, boxes, rows = augment(_painted(box), np.array([box], np.float64), seed)
    visible = image[..., 0] > 127
    if len(boxes) == 0:  # nothing is left, or a sliver
        assert not visible.any() or np.subtract(_extent(visible)[2:], _extent(visible)[:2]).min() <= 2
        return
    assert rows.tolist() == [0]
    assert (boxes >= 0).all()
    assert (boxes <= [CANVAS[1], CANVAS[0]] * 2).all()
    np.testing.assert_allclose(boxes[0], _extent(visible), atol=1.5)


def test_a_horizontal_flip_mirrors_left_and_right():
    box = (10, 20, 40, 50)
    image = _painted(box, CANVAS)
    flipped, boxes, _ = DetectionAugment(_policy(flip=1), CANVAS, (0, 0, 0))(image, np.array([box], np.float64), 0)
    assert (flipped == image[:, ::-1]).all()
    np.testing.assert_allclose(boxes, [[56, 20, 86, 50]], atol=1e-4)


def test_a_vertical_flip_mirrors_top_and_bottom():
    box = (10, 20, 40, 50)
    image = _painted(box, CANVAS)
    flipped, boxes, _ = DetectionAugment(_policy(vertical_flip=1), CANVAS, (0, 0, 0))(image, np.array([box], np.float64), 0)
    assert (flipped == image[::-1]).all()
    np.testing.assert_allclose(boxes, [[10, 14, 40, 44]], atol=1e-4)


def test_without_any_change_a_fitting_image_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (*CANVAS, 3), dtype=np.uint8)
    boxes = np.array([[0.0, 0, 96, 64], [3.5, 4.25, 20, 30]])
    same, kept, rows = DetectionAugment(STILL, CANVAS, (0, 0, 0))(image, boxes, 0)
    assert (same == image).all()
    np.testing.assert_allclose(kept, boxes, atol=1e-4)
    assert rows.tolist() == [0, 1]


def test_flips_and_places_are_drawn_independently():
    # albumentations 2.0.8 seeds all its transforms alike, so that a flip would always come with the same place
    augment = DetectionAugment(_policy(flip=0.5, vertical_flip=0.5, scale=(0.5, 0.5)), CANVAS, (0, 0, 0))
    image = np.full((*CANVAS, 3), 100, np.uint8)
    image[:32, :48] = 255  # tells which way up the picture is
    draws = []
    for seed in range(300):
        changed = augment(image, NO_BOXES, seed)[0][..., 0]
        x1, y1, *_ = _extent(changed > 50)
        bright = _extent(changed > 200)
        draws.append((bright[0] > x1 + 4, bright[1] > y1 + 4, x1 > 24, y1 > 16))
    draws = np.array(draws, float)
    assert np.abs(draws.mean(0) - 0.5).max() < 0.12
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.2


def test_all_scales_are_equally_likely():
    augment = DetectionAugment(_policy(scale=(0.25, 1)), CANVAS, (0, 0, 0))
    image = np.full((*CANVAS, 3), 255, np.uint8)
    sides = [np.ptp(_extent(augment(image, NO_BOXES, seed)[0][..., 0] > 127)[::2]) for seed in range(400)]
    shares = np.array(sides) / CANVAS[1]
    assert shares.min() < 0.28
    assert shares.max() > 0.9
    assert np.abs(np.quantile(shares, [0.25, 0.5, 0.75]) - [0.4375, 0.625, 0.8125]).max() < 0.06


def test_the_padding_is_the_filling():
    augment = DetectionAugment(_policy(scale=(0.5, 0.5)), CANVAS, (10, 20, 30))
    image, _, _ = augment(np.full((*CANVAS, 3), 200, np.uint8), NO_BOXES, 0)
    inside = (image == 200).all(-1)
    assert inside.sum() == 32 * 48
    assert (image[~inside] == (10, 20, 30)).all()


def test_colours_change_pixels_and_no_boxes():
    policy = replace(STANDARD, flip=0, scale=(1, 1))
    image = np.random.default_rng(0).integers(60, 200, (*CANVAS, 3), dtype=np.uint8)
    boxes = np.array([[3.0, 4, 50, 60], [0, 0, 96, 64]])
    augment = DetectionAugment(policy, CANVAS, (0, 0, 0))
    changed = 0
    for seed in range(10):
        recoloured, kept, rows = augment(image, boxes, seed)
        changed += bool((recoloured != image).any())
        np.testing.assert_allclose(kept, boxes, atol=1e-4)
        assert rows.tolist() == [0, 1]
    assert changed >= 5


@pytest.mark.parametrize("colour", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_change_can_be_had_alone(colour):
    image = np.random.default_rng(0).integers(60, 200, (*CANVAS, 3), dtype=np.uint8)
    augment = DetectionAugment(_policy(**{colour: 0.3}), CANVAS, (0, 0, 0))
    assert any((augment(image, NO_BOXES, seed)[0] != image).any() for seed in range(4))


def test_grey_images_keep_their_one_band():
    image = np.random.default_rng(0).integers(0, 256, (*SOURCE, 1), dtype=np.uint8)
    changed, _, _ = DetectionAugment(STANDARD, CANVAS, (7,))(image, NO_BOXES, 3)
    assert changed.shape == (*CANVAS, 1)
    assert changed.dtype == np.uint8


@pytest.mark.parametrize("min_visibility", [0.0, 0.5])
def test_a_box_of_which_too_little_is_left_is_dropped(min_visibility):
    policy = _policy(scale=(2, 2), min_visibility=min_visibility)
    augment = DetectionAugment(policy, CANVAS, (0, 0, 0))
    box = np.array([[30.0, 20, 60, 40]])  # twice as large: 60 x 40
    shares = []
    for seed in range(80):
        _, boxes, _ = augment(np.zeros((*CANVAS, 3), np.uint8), box, seed)
        shares += [float(np.prod(kept[2:] - kept[:2])) / (60 * 40) for kept in boxes]
    assert shares
    assert min(shares) >= min_visibility - 1e-6
    assert min(shares) < min_visibility + 0.3  # some are near the limit


def test_rows_tell_which_boxes_are_left():
    augment = DetectionAugment(_policy(scale=(1.2, 1.2), min_visibility=0.5), CANVAS, (0, 0, 0))
    boxes = np.array([[0.0, 0, 10, 10], [30, 20, 60, 40], [86, 54, 96, 64]])
    found = set()
    for seed in range(40):
        image = np.zeros((*CANVAS, 3), np.uint8)
        for row, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
            image[y1:y2, x1:x2] = 80 * (row + 1)
        changed, kept, rows = augment(image, boxes, seed)
        for (x1, y1, x2, y2), row in zip(kept, rows, strict=True):
            assert abs(int(changed[int(y1 + y2) // 2, int(x1 + x2) // 2, 0]) - 80 * (row + 1)) < 5
        found.add(tuple(rows.tolist()))
    assert {(0, 1), (1, 2), (1,)} <= found


@pytest.mark.parametrize("source", [(1, 1), (8, 1200), (1200, 8), (16, 4000), (64, 96)])
def test_any_shape_of_image_fills_the_canvas(source, augment):
    image = np.full((*source, 3), 255, np.uint8)
    whole = np.array([[0.0, 0, source[1], source[0]]])
    for seed in range(5):
        changed, boxes, _ = augment(image, whole, seed)
        assert changed.shape == (*CANVAS, 3)
        assert np.isfinite(boxes).all()


def test_an_image_without_objects_stays_one(photo, augment):
    _, boxes, rows = augment(photo, NO_BOXES, 0)
    assert (boxes.shape, rows.shape) == ((0, 4), (0,))
