"""Colours, held against torchvision's."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as peer

from densenet_suite.augment import AugmentPolicy
from densenet_suite.augment.photometry import CHANCE, recoloured, shifted

SPREAD = np.full(3, 50.0)
IMAGE = np.random.default_rng(0).integers(40, 200, (48, 64, 3), dtype=np.uint8)


def _theirs(function, image, factor):
    changed = function(torch.from_numpy(image).permute(2, 0, 1), factor)
    return changed.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("change", [-0.4, -0.1, 0.1, 0.4])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("brightness", peer.adjust_brightness),
        ("contrast", peer.adjust_contrast),
        ("saturation", peer.adjust_saturation),
    ],
)
def test_changes_are_torchvisions(name, function, change):
    ours = shifted(IMAGE, {name: change}, SPREAD)
    assert np.abs(ours.astype(int) - _theirs(function, IMAGE, 1 + change)).max() <= 1


@pytest.mark.parametrize("change", [-0.3, 0.3])
@pytest.mark.parametrize(
    ("name", "function"), [("brightness", peer.adjust_brightness), ("contrast", peer.adjust_contrast)]
)
def test_grey_changes_as_colours_do(name, function, change):
    grey = IMAGE[..., :1]
    assert (
        np.abs(shifted(grey, {name: change}, SPREAD[:1]).astype(int) - _theirs(function, grey, 1 + change)).max() <= 1
    )


def test_several_changes_at_once_are_one_after_the_other():
    changes = {"brightness": 0.1, "contrast": -0.2, "saturation": 0.15, "hue": 0.02}
    step = IMAGE
    for name, change in changes.items():
        step = shifted(step, {name: change}, SPREAD)
    assert np.abs(shifted(IMAGE, changes, SPREAD).astype(int) - step).max() <= 3


def test_a_third_of_the_colour_circle_takes_red_to_green_and_half_of_it_to_its_complement():
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    assert shifted(red, {"hue": 1 / 3}, SPREAD)[0, 0].tolist() == [0, 200, 0]
    assert shifted(red, {"hue": -1 / 3}, SPREAD)[0, 0].tolist() == [0, 0, 200]
    assert shifted(red, {"hue": 1.0}, SPREAD)[0, 0].tolist() == [200, 0, 0]


def test_a_small_shift_of_the_hue_is_torchvisions_to_a_few_grey_levels():
    for change in (-0.02, 0.02):
        theirs = _theirs(peer.adjust_hue, IMAGE, change)
        assert np.abs(shifted(IMAGE, {"hue": change}, SPREAD).astype(int) - theirs).mean() < 4


def test_the_hue_of_grey_stays():
    grey = np.full((4, 5, 3), 90, np.uint8)
    assert (shifted(grey, {"hue": 0.3, "saturation": 0.9}, SPREAD) == 90).all()


def test_8_bits_stay_in_their_range():
    bright = shifted(np.full((4, 4, 3), 250, np.uint8), {"brightness": 0.5}, SPREAD)
    assert (bright == 255).all()


@pytest.mark.parametrize("key", ["brightness", "contrast", "saturation", "hue"])
def test_limits_are_reached_and_not_passed(key):
    limit = 0.3
    policy = AugmentPolicy(**{key: limit})
    farthest = [shifted(IMAGE, {key: side * limit}, SPREAD).astype(int) - IMAGE for side in (-1, 1)]
    most = max(np.abs(change).mean() for change in farthest)
    moved = [
        np.abs(recoloured(IMAGE, policy, SPREAD, np.random.default_rng(seed)).astype(int) - IMAGE).mean()
        for seed in range(60)
    ]
    assert 0.85 * most < max(moved) <= most + 0.5


def test_four_in_five_photos_change():
    policy = AugmentPolicy(brightness=0.5)
    changed = [(recoloured(IMAGE, policy, SPREAD, np.random.default_rng(seed)) != IMAGE).any() for seed in range(300)]
    assert np.mean(changed) == pytest.approx(CHANCE, abs=0.07)


def test_gamma_leaves_black_and_white_and_goes_both_ways():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    policy = AugmentPolicy(gamma=0.25)
    middles = []
    for seed in range(150):
        changed = recoloured(ramp, policy, SPREAD[:1], np.random.default_rng(seed)).reshape(-1)
        assert (changed[0], changed[-1]) == (0, 255)
        assert (np.diff(changed.astype(int)) >= 0).all()
        middles.append(changed[128])
    exponents = np.log(np.array(middles) / 255) / np.log(128 / 255)
    assert (exponents.min(), exponents.max()) == pytest.approx((0.8, 1.25), abs=0.03)


@pytest.mark.parametrize(("dtype", "bands", "factor"), [(np.uint8, 3, 1), (np.float32, 5, 40), (np.float32, 1, 1e-4)])
def test_noise_is_a_share_of_the_bands_deviations(dtype, bands, factor):
    image = (np.full((60, 80, bands), 120.0) * factor).astype(dtype)
    spread = np.full(bands, 50.0 * factor)
    deviations = [
        np.std(recoloured(image, AugmentPolicy(noise=0.2), spread, np.random.default_rng(seed)) - image.astype(float))
        for seed in range(60)
    ]
    assert max(deviations) == pytest.approx(0.2 * 50 * factor, rel=0.1)
    assert np.mean(np.array(deviations) == 0) == pytest.approx(0.5, abs=0.2)


def test_a_blur_takes_grain_away_in_half_of_the_pictures():
    grain = [
        np.std(recoloured(IMAGE, AugmentPolicy(blur=2), SPREAD, np.random.default_rng(seed))) for seed in range(40)
    ]
    assert min(grain) < 0.4 * np.std(IMAGE)
    assert np.mean(np.array(grain) == np.std(IMAGE)) == pytest.approx(0.5, abs=0.25)


@pytest.mark.parametrize("bands", [1, 3])
def test_compression_leaves_the_picture_recognisable(bands):
    smooth = np.repeat(np.add.outer(np.arange(48), 2 * np.arange(64)).astype(np.uint8)[..., None], bands, 2)
    changed = [
        recoloured(smooth, AugmentPolicy(compression=0.8), SPREAD[:bands], np.random.default_rng(seed))
        for seed in range(10)
    ]
    assert any((image != smooth).any() for image in changed)
    assert max(np.abs(image.astype(int) - smooth).mean() for image in changed) < 6


def test_without_limits_the_picture_itself_comes_back():
    assert recoloured(IMAGE, AugmentPolicy(), SPREAD, np.random.default_rng(0)) is IMAGE
