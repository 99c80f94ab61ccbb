from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.augment import AugmentPolicy, preset_policy
from densenet_suite.augment.detection import DetectionAugment
from densenet_suite.sampling import Stream, derive_seed

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
    flipped, boxes, _ = DetectionAugment(_policy(vertical_flip=1), CANVAS, (0, 0, 0))(
        image, np.array([box], np.float64), 0
    )
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


# samples of several pictures


class _Flat:
    """Pictures of one grey each, with a box in the middle."""

    greys = (40, 90, 140, 190, 240)

    def __init__(self):
        self.read = []

    def __len__(self):
        return len(self.greys)

    def size(self, index):
        return SOURCE

    def pixels(self, index, at_least):
        self.read.append((index, at_least))
        return np.full((*SOURCE, 3), self.greys[index], np.uint8)

    def boxes(self, index):
        return np.array([[40.0, 30, 70, 50]])

    def polygons(self, index, row):
        return ()


def _sample(policy, epoch=0, index=0, *, epochs=None, seed=0, pictures=None):
    return DetectionAugment(policy, CANVAS, (7, 8, 9), seed, epochs).sample(pictures or _Flat(), epoch, index)


def test_a_sample_of_one_picture_is_that_picture_changed_by_its_own_seed(photo):
    class _Photo(_Flat):
        def pixels(self, index, at_least):
            return photo

    seed = derive_seed(5, Stream.SAMPLE, 2, 3)
    image, boxes, rows = DetectionAugment(STANDARD, CANVAS, (7, 8, 9))(photo, _Flat().boxes(0), seed)
    sample = _sample(STANDARD, 2, 3, seed=5, pictures=_Photo())
    assert (sample.image == image).all()
    assert (sample.boxes == boxes).all()
    assert sample.origins.tolist() == [[3, row] for row in rows.tolist()]


def test_a_mosaic_shows_four_pictures_that_meet_in_one_place():
    policy = _policy(mosaic=1, scale=(2, 2))  # so that each fills its part
    for epoch in range(10):
        grey = _sample(policy, epoch).image[..., 0].astype(int)
        row, column = np.abs(np.diff(grey, axis=0)).max(1), np.abs(np.diff(grey, axis=1)).max(0)
        assert np.count_nonzero(row) <= 1  # one line across, and one down
        assert np.count_nonzero(column) <= 1
        corners = grey[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert 40 in corners  # the sample itself
        assert set(corners.tolist()) <= set(_Flat.greys)


def test_mixup_is_half_of_each_with_the_boxes_of_both():
    pictures = _Flat()
    sample = _sample(_policy(mixup=1), pictures=pictures)
    (first, _), (second, _) = pictures.read
    middle = sample.image[32, 48].astype(float)
    assert middle == pytest.approx(np.full(3, (_Flat.greys[first] + _Flat.greys[second]) / 2), abs=0.51)
    assert sample.origins.tolist() == [[first, 0], [second, 0]]


def test_an_object_whose_outline_is_out_of_sight_is_not_pasted():
    class _Outlined(_Flat):
        def polygons(self, index, row):
            return [np.array([[200.0, 200], [220, 200], [200, 220]])]  # not where its box is

    for epoch in range(10):
        sample = _sample(_policy(copy_paste=1), epoch, pictures=_Outlined())
        assert sample.origins.tolist() == [[0, 0]]
        assert set(np.unique(sample.image[..., 0]).tolist()) <= {40, 7}


def test_what_is_erased_is_the_filling_and_what_it_hides_has_no_box():
    hidden = 0
    for epoch in range(60):
        sample = _sample(_policy(cutout=1, min_visibility=0.5), epoch)
        erased = (sample.image == (7, 8, 9)).all(-1)
        whole = _sample(_policy(), epoch)
        erased &= (whole.image == 40).all(-1)  # that is not padding
        x1, y1, x2, y2 = whole.boxes[0].round().astype(int)
        left = 1 - erased[y1:y2, x1:x2].mean()
        if abs(left - 0.5) > 0.1:
            assert len(sample.boxes) == (left > 0.5)
            hidden += left < 0.5
    assert hidden > 3


def test_the_last_epochs_have_one_picture_each():
    policy = _policy(mosaic=1, mixup=1, copy_paste=1, cutout=1, randaugment=2, plain_epochs=2)
    read = []
    for epoch in range(5):
        pictures = _Flat()
        _sample(policy, epoch, epochs=5, pictures=pictures)
        read.append(len(pictures.read))
    assert read == [6, 6, 6, 1, 1]


def test_a_small_picture_is_asked_for_no_larger_than_it_is_seen():
    pictures = _Flat()
    _sample(_policy(scale=(0.25, 0.25)), pictures=pictures)
    assert pictures.read == [(0, (16, 22))]


def test_pixels_that_are_kept_by_the_reader_are_never_changed():
    kept = np.random.default_rng(0).integers(0, 256, (*CANVAS, 3), dtype=np.uint8)

    class _Kept(_Flat):
        def size(self, index):
            return CANVAS

        def pixels(self, index, at_least):
            return kept

    before = kept.copy()
    strong = replace(preset_policy("strong", "detection"), scale=(1, 1))
    for policy in (_policy(cutout=1), _policy(copy_paste=1), _policy(flip=0.5, mixup=1), strong):
        for epoch in range(8):
            _sample(policy, epoch, pictures=_Kept())
    assert (kept == before).all()
