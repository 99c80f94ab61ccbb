"""Random changes of images together with their masks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from densenet_suite.augment import AugmentPolicy, preset_policy
from densenet_suite.augment.masks import Cut, MaskAugment, cut_out

STILL = AugmentPolicy()
STANDARD = preset_policy("standard", "segmentation")
SHAPES_ONLY = AugmentPolicy(flip=0.5, vertical_flip=0.5, rotate90=0.5, rotate=30, elastic=3, scale=(0.7, 1.4))
CROP = (48, 64)
SOURCE = (90, 110)


def _policy(**changes):
    return replace(STILL, **changes)


def _middle(mask, size, rng):
    return (mask.shape[-2] - size[0]) // 2, (mask.shape[-1] - size[1]) // 2


def _anywhere(mask, size, rng):
    bounds = [sorted((0, inside - side)) for inside, side in zip(mask.shape[-2:], size, strict=True)]
    top, left = (int(rng.integers(low, high + 1)) for low, high in bounds)
    return top, left


def _augment(policy, bands=3, *, crop=CROP, choose=_middle, fill=None, scale=1.0):
    return MaskAugment(policy, crop, fill or (7,) * bands, (50.0,) * bands, choose, scale)


def _scene(bands=3, dtype=np.uint8, classes=4, source=SOURCE, factor=1):
    """Blobs of classes, and an image that shows the class in each of its bands."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, classes, (source[0] // 10 + 1, source[1] // 10 + 1))
    mask = np.kron(coarse, np.ones((10, 10), int))[: source[0], : source[1]].astype(np.uint8)
    image = np.stack([(mask * 60.0 + 10) * factor] * bands, 2).astype(dtype)
    return image, mask


def _shown(image, factor=1):
    """The class that each pixel of such an image shows."""
    return np.round((image[..., 0] / factor - 10) / 60).astype(int)


# what comes back


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("planes", [None, 1, 6])
def test_any_number_of_bands_and_classes_keeps_its_dtype_and_layout(bands, dtype, planes):
    image, mask = _scene(bands, dtype, 2)
    if planes:
        mask = np.stack([mask] * planes)
    augment = _augment(
        replace(STANDARD, vertical_flip=0.5, rotate90=0.5, rotate=20, elastic=2), bands, choose=_anywhere
    )
    for seed in range(4):
        crop, labels = augment(image, mask, seed)
        assert (crop.shape, crop.dtype) == ((*CROP, bands), dtype)
        assert (labels.shape, labels.dtype) == (CROP if planes is None else (planes, *CROP), np.uint8)
        assert crop.flags.c_contiguous
        assert labels.flags.c_contiguous


@pytest.mark.parametrize(
    ("policy", "most"),  # the mask is that of the nearest pixel, so that each warp may be off by half a pixel
    [
        (_policy(scale=(0.6, 0.6)), 0.5),
        (_policy(scale=(1.7, 1.7)), 0.5),
        (_policy(rotate=180), 0.5),
        (_policy(elastic=2), 0.6),
        (_policy(flip=0.5, vertical_flip=0.5, rotate90=1), 0),
        (_policy(flip=0.5, rotate90=1, rotate=30, elastic=2, scale=(0.7, 1.4)), 2),
    ],
)
def test_every_pixel_of_the_mask_belongs_to_the_same_place_as_that_of_the_image(policy, most):
    rows, columns = np.mgrid[:200, :200]
    image = np.stack([rows, columns], 2).astype(np.float32)  # shows where each pixel came from, as do the masks
    mask = np.stack([rows, columns]).astype(np.uint8)
    errors = []
    for seed in range(20):
        crop, labels = _augment(policy, 2)(image, mask, seed)
        known = (labels != 255).all(0)
        errors.append((crop.transpose(2, 0, 1) - labels)[:, known])
    errors = np.concatenate(errors, 1)
    assert np.percentile(np.abs(errors), 99.9) <= most + 1e-3
    assert np.abs(errors.mean(1)).max() < 0.02


@pytest.mark.parametrize("policy", [SHAPES_ONLY, _policy(scale=(0.3, 3)), _policy(rotate=180), _policy(elastic=8)])
def test_masks_hold_the_values_they_had_and_255(policy):
    image, mask = _scene()
    mask = np.array([0, 3, 77, 254], np.uint8)[mask]
    augment = _augment(policy, choose=_anywhere)
    seen = np.unique([augment(image, mask, seed)[1] for seed in range(30)])
    assert set(seen.tolist()) <= {0, 3, 77, 254, 255}
    assert {0, 3, 77, 254} <= set(seen.tolist())


def test_unlabelled_pixels_stay_unlabelled():
    image, mask = _scene()
    mask[mask == 2] = 255
    crop, labels = _augment(_policy(flip=0.5, rotate90=1), choose=_anywhere)(image, mask, 3)
    assert ((labels == 255) == (_shown(crop) == 2)).all()


def test_without_any_change_the_crop_is_a_piece_of_the_image():
    image, mask = _scene()
    crop, labels = _augment(STILL)(image, mask, 0)
    assert (crop == image[21:69, 23:87]).all()
    assert (labels == mask[21:69, 23:87]).all()


def test_what_is_given_stays_as_it_is():
    image, mask = _scene()
    before = image.copy(), mask.copy()
    for seed in range(5):
        _augment(replace(STANDARD, rotate=30, elastic=3), choose=_anywhere)(image, mask, seed)
        _augment(STANDARD, crop=SOURCE)(image, mask, seed)
    assert (image == before[0]).all()
    assert (mask == before[1]).all()


# the border


@pytest.mark.parametrize("bands", [1, 3, 4, 5, 13])
@pytest.mark.parametrize(
    "policy", [STILL, _policy(rotate=45), _policy(elastic=6), _policy(rotate=45, elastic=6), _policy(rotate90=1)]
)
def test_outside_is_the_filling_of_each_band_and_255(bands, policy):
    fill = tuple(range(5, 5 + bands))
    image, mask = np.full((20, 24, bands), 200, np.float32), np.ones((20, 24), np.uint8)
    augment = _augment(policy, bands, choose=_anywhere, fill=fill)
    for seed in range(6):
        crop, labels = augment(image, mask, seed)
        outside = (crop == fill).all(-1)
        assert (labels[outside] == 255).mean() > 0.97  # a pixel beside the image may be filling and be labelled
        assert outside.mean() > 0.6
        mixed = (labels == 255) & ~outside  # at the border of the image, where a warp mixes it with the filling
        assert mixed.mean() < 0.05
        assert (labels[(crop == 200).all(-1)] == 1).all()


def test_an_image_smaller_than_the_crop_is_whole():
    image, mask = _scene(source=(20, 30))
    for seed in range(20):
        crop, labels = _augment(STILL, choose=_anywhere)(image, mask, seed)
        rows, columns = np.nonzero(labels != 255)
        assert (labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == mask).all()
        assert (crop[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == image).all()
        assert (crop[labels == 255] == 7).all()


@pytest.mark.parametrize("source", [(1, 1), (3, 400), (400, 3)])
def test_any_shape_of_image_fills_the_crop(source):
    image, mask = _scene(source=source)
    for seed in range(5):
        crop, labels = _augment(SHAPES_ONLY, choose=_anywhere)(image, mask, seed)
        assert (crop.shape, labels.shape) == ((*CROP, 3), CROP)


@pytest.mark.parametrize(("degrees", "crop"), [(45, CROP), (90, (16, 80)), (180, (80, 16))])
def test_what_turns_into_the_crop_is_the_picture_around_it(degrees, crop):
    image, mask = _scene(source=(200, 200))
    augment = _augment(_policy(rotate=degrees), crop=crop)
    assert not any((augment(image, mask, seed)[1] == 255).any() for seed in range(40))


def test_what_is_bent_into_the_crop_from_too_far_away_is_filling():
    image, mask = np.full((400, 400, 5), 200, np.float32), np.ones((400, 400), np.uint8)
    augment = _augment(_policy(elastic=30), 5, crop=(16, 16), fill=(1, 2, 3, 4, 5))
    crops, labels = zip(*(augment(image, mask, seed) for seed in range(60)), strict=True)
    crops, far = np.array(crops), np.array(labels) == 255
    assert 0 < far.mean() < 0.02
    assert (crops[far] == [1, 2, 3, 4, 5]).all(-1).mean() > 0.5  # others are mixed with what is beside them
    assert (crops[~far] == 200).all(-1).mean() > 0.99


# single changes


def test_flips_mirror_image_and_mask():
    image, mask = _scene(source=CROP)
    for policy, flipped in ((_policy(flip=1), np.s_[:, ::-1]), (_policy(vertical_flip=1), np.s_[::-1])):
        crop, labels = _augment(policy)(image, mask, 0)
        assert (crop == image[flipped]).all()
        assert (labels == mask[flipped]).all()


def test_quarter_turns_and_flips_give_all_eight_positions_alike():
    image, mask = _scene(source=(48, 48))
    augment = _augment(_policy(flip=0.5, vertical_flip=0.5, rotate90=1), crop=(48, 48))
    positions = [np.rot90(m, k).tobytes() for m in (mask, mask.T) for k in range(4)]
    draws = [positions.index(augment(image, mask, seed)[1].tobytes()) for seed in range(800)]
    assert np.bincount(draws, minlength=8).min() > 65


def test_a_crop_that_is_not_square_is_cut_the_other_way_round_for_a_quarter_turn():
    image, mask = _scene(source=(110, 110))
    upright, turned = mask[31:79, 23:87], mask[23:87, 31:79]
    known = {np.rot90(upright, k).tobytes() for k in (0, 2)} | {np.rot90(turned, k).tobytes() for k in (1, 3)}
    seen = {_augment(_policy(rotate90=1))(image, mask, seed)[1].tobytes() for seed in range(40)}
    assert seen == known


def test_a_turn_by_degrees_turns_about_the_middle():
    rows, columns = np.mgrid[:151, :151]
    image = np.stack([rows, columns], 2).astype(np.float32)
    angles = []
    for seed in range(40):
        crop, _ = _augment(_policy(rotate=30), 2, crop=(65, 65))(image, np.zeros((151, 151), np.uint8), seed)
        assert crop[32, 32] == pytest.approx([75, 75], abs=0.01)
        across = crop[32, 33] - crop[32, 32]
        assert np.hypot(*across) == pytest.approx(1, abs=0.02)
        angles.append(np.degrees(np.arctan2(across[0], across[1])))
    assert -30 <= min(angles) < -20
    assert 20 < max(angles) <= 30


def test_an_elastic_change_moves_by_what_the_policy_says():
    rows, columns = np.mgrid[:400, :400]
    image, mask = np.stack([rows, columns], 2).astype(np.float32), np.zeros((400, 400), np.uint8)
    augment = _augment(_policy(elastic=4), 2, crop=(300, 300))
    moved = [augment(image, mask, seed)[0] - image[50:350, 50:350] for seed in range(4)]
    assert np.percentile(np.abs(moved), 68.3) == pytest.approx(4, rel=0.15)
    assert np.percentile(np.abs(np.diff(moved, axis=2)), 99) < 1  # smooth


@pytest.mark.parametrize(("zoom", "scale"), [(2, 1.0), (0.5, 1.0), (1, 0.5), (1, 2.0), (2, 0.5)])
def test_scale_enlarges_both_about_the_same_pixels(zoom, scale):
    image, mask = _scene(source=(200, 200))
    crop, labels = _augment(_policy(scale=(zoom, zoom)), scale=scale)(image, mask, 0)
    size = round(48 / (zoom * scale)), round(64 / (zoom * scale))
    top, left = (200 - size[0]) // 2, (200 - size[1]) // 2
    seen = mask[top : top + size[0], left : left + size[1]]
    assert np.bincount(labels.ravel(), minlength=4) / labels.size == pytest.approx(
        np.bincount(seen.ravel(), minlength=4) / seen.size, abs=0.01
    )
    assert (_shown(crop) == labels).mean() > 0.9  # elsewhere the image is a mixture


def test_halving_is_as_likely_as_doubling():
    sizes = []

    def note(mask, size, rng):
        sizes.append(size[0])
        return 0, 0

    augment = _augment(_policy(scale=(0.5, 2)), choose=note)
    for seed in range(600):
        augment(*_scene(), seed)
    assert min(sizes) < 26
    assert max(sizes) > 90
    assert np.median(sizes) == pytest.approx(48, abs=4)


# colours


@pytest.mark.parametrize("bands", [1, 3])
def test_colours_of_8_bits_change_and_the_mask_does_not(bands):
    image, mask = _scene(bands)
    augment = _augment(_policy(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02), bands)
    crops = [augment(image, mask, seed) for seed in range(10)]
    assert sum(bool((crop != image[21:69, 23:87]).any()) for crop, _ in crops) >= 5
    assert all((labels == mask[21:69, 23:87]).all() for _, labels in crops)


@pytest.mark.parametrize(("bands", "factor"), [(3, 40), (13, 40), (1, 1e-4), (2, -3)])
def test_floats_are_not_clipped_and_change_in_their_own_unit(bands, factor):
    image, mask = _scene(bands, np.float32, factor=factor)
    spread = tuple(np.full(bands, np.std(image)))
    augment = MaskAugment(_policy(brightness=0.2, contrast=0.2), CROP, (0,) * bands, spread, _middle)
    plain = image[21:69, 23:87]
    changes = [augment(image, mask, seed)[0] for seed in range(100)]
    shifts = np.array([np.mean(change - plain) for change in changes]) / np.std(image)
    contrasts = np.array([np.std(change) for change in changes]) / np.std(plain)
    assert np.abs(shifts).max() == pytest.approx(0.2, abs=0.02)
    assert abs(shifts.mean()) < 0.03
    assert (contrasts.min(), contrasts.max()) == pytest.approx((0.8, 1.2), abs=0.02)


def test_shapes_do_not_clip_floats():
    image, mask = _scene(5, np.float32, factor=-40)
    crop, _ = _augment(SHAPES_ONLY, 5, fill=(-500,) * 5)(image, mask, 1)
    assert crop.min() < -7000


def test_more_than_three_bands_of_8_bits_stay_in_their_range():
    image, mask = _scene(4)
    image[..., 3] = 250
    augment = MaskAugment(_policy(brightness=1, contrast=1), CROP, (0,) * 4, (80.0,) * 4, _middle)
    crops = np.array([augment(image, mask, seed)[0] for seed in range(20)])
    assert (crops[..., 3] == 255).any()  # brighter, and no wrap to 0
    assert crops[..., 3].min() > 250 - 81


def test_the_bands_change_alike():
    image, mask = _scene(4)
    image[..., 1] = image[..., 0] // 2 + 20
    image[..., [0, 2, 3]] += 10
    augment = MaskAugment(_policy(brightness=0.3), CROP, (0,) * 4, (40.0,) * 4, _middle)
    change = augment(image, mask, 5)[0].astype(int) - image[21:69, 23:87]
    assert len(np.unique(change)) == 1


# randomness


def test_a_seed_decides_everything():
    image, mask = _scene()
    policy = replace(STANDARD, rotate90=0.5, rotate=20, elastic=2)
    first = _augment(policy, choose=_anywhere)
    for seed in (5, 6, 7):
        first(image, mask, seed)  # whatever was drawn before
    again = _augment(policy, choose=_anywhere)
    for seed in (2, 2**63 - 1):
        for ours, theirs in zip(first(image, mask, seed), again(image, mask, seed), strict=True):
            assert (ours == theirs).all()


def test_seeds_differ():
    image, mask = _scene()
    augment = _augment(STANDARD, choose=_anywhere)
    assert len({augment(image, mask, seed)[0].tobytes() for seed in range(30)}) == 30


class _Crops:
    """A dataset of one scene, cropped; a key is a seed."""

    augment = _augment(replace(STANDARD, rotate=20, elastic=2), choose=_anywhere)

    def __len__(self):
        return 8

    def __getitem__(self, seed):
        return self.augment(*_scene(), seed)[0]


def test_workers_change_nothing_and_repeat_nothing():
    alone, helped = ([b.numpy().tobytes() for b in DataLoader(_Crops(), num_workers=workers)] for workers in (0, 2))
    assert alone == helped
    assert len(set(alone)) == 8


def test_flips_are_drawn_independently():
    image, mask = np.zeros((*CROP, 3), np.uint8), np.zeros(CROP, np.uint8)
    mask[:24, :32] = 1
    augment = _augment(_policy(flip=0.5, vertical_flip=0.5))
    corners = [augment(image, mask, seed)[1][[0, 0, -1, -1], [0, -1, 0, -1]].argmax() for seed in range(400)]
    assert np.bincount(corners).min() > 75


# what is refused


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64, np.uint16, np.float32])
def test_a_mask_of_another_type_is_refused(dtype):
    image, mask = _scene()
    with pytest.raises(ValueError, match=rf"mask is {np.dtype(dtype)}, augmentation takes uint8 with 255"):
        _augment(STILL)(image, mask.astype(dtype), 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float64])
def test_an_image_of_another_type_is_refused(dtype):
    image, mask = _scene()
    with pytest.raises(ValueError, match=rf"image is {np.dtype(dtype)}, augmentation takes uint8 or float32"):
        _augment(STILL)(image.astype(dtype), mask, 0)


def test_an_image_and_a_mask_of_different_sizes_are_refused():
    image, mask = _scene()
    with pytest.raises(ValueError, match=r"image \(90, 110, 3\) and mask \(90, 109\), expected \[h w 3\] and"):
        _augment(STILL)(image, mask[:, 1:], 0)


def test_an_image_of_other_bands_than_the_filling_is_refused():
    with pytest.raises(ValueError, match=r"image \(90, 110, 4\) .* expected \[h w 3\]"):
        _augment(STILL)(*_scene(4), 0)


def test_filling_and_spread_are_of_the_same_bands():
    with pytest.raises(ValueError, match="fill has 3 bands and spread 2: one of each for every band"):
        MaskAugment(STILL, CROP, (0, 0, 0), (1.0, 1.0), _middle)


# windows


@settings(deadline=None, derandomize=True)
@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 25), st.integers(1, 25))
def test_a_window_is_what_it_covers_and_filling_around_it(top, left, height, width):
    image = np.arange(10 * 12 * 2, dtype=np.float32).reshape(10, 12, 2)
    padded = np.full((100, 100, 2), (-1.5, -2.5), np.float32)
    padded[40:50, 40:52] = image
    window = cut_out(image, Cut(top, left, height, width, 0), (-1.5, -2.5))
    assert (window == padded[40 + top : 40 + top + height, 40 + left : 40 + left + width]).all()
