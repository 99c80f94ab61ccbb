"""How much changes, and in which epochs."""

from dataclasses import asdict

import pytest

from densenet_suite.augment import PRESETS, AugmentPolicy, preset_policy
from densenet_suite.augment.policy import STRONG

STRONG_POLICY = preset_policy("strong", "detection")


def test_by_itself_a_policy_changes_nothing():
    still = asdict(AugmentPolicy())
    assert still.pop("scale") == (1.0, 1.0)
    numbers = {key: value for key, value in still.items() if key not in ("preset", "magnitude", "min_visibility")}
    assert set(numbers.values()) == {0}


@pytest.mark.parametrize(("epoch", "strong"), [(0, True), (84, True), (85, False), (99, False), (120, False)])
def test_the_last_epochs_are_plain(epoch, strong):
    policy = STRONG_POLICY.in_epoch(epoch, 100)
    assert [bool(getattr(policy, key)) for key in STRONG] == [strong] * 5
    unchanged = asdict(STRONG_POLICY).keys() - set(STRONG)
    assert all(getattr(policy, key) == getattr(STRONG_POLICY, key) for key in unchanged)


def test_without_an_end_no_epoch_is_plain():
    assert STRONG_POLICY.in_epoch(10**6, None) == STRONG_POLICY


def test_without_plain_epochs_all_are_alike():
    policy = AugmentPolicy(mosaic=0.5)
    assert policy.in_epoch(9, 10) == policy


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_standard_is_what_the_shipped_configs_were_measured_with(task):
    policy = preset_policy("standard", task)
    scale = {"detection": (0.5, 1.6), "segmentation": (0.7, 1.4)}[task]
    colours = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}
    assert policy == AugmentPolicy(preset="standard", flip=0.5, scale=scale, min_visibility=0.15, **colours)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_none_changes_nothing(task):
    assert preset_policy("none", task) == AugmentPolicy()


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_overhead_pictures_are_seen_in_all_eight_positions(task):
    for name in ("aerial", "microscopy"):
        policy = preset_policy(name, task)
        assert (policy.flip, policy.vertical_flip, policy.rotate90) == (0.5, 0.5, 1.0)


def test_medical_pictures_are_not_mirrored():
    assert preset_policy("medical", "segmentation").flip == 0


def test_strong_has_the_large_scale_jitter_of_the_paper():
    assert STRONG_POLICY.scale == (0.1, 2.0)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="there is no preset 'aeriel'; did you mean aerial"):
        preset_policy("aeriel", "detection")
    with pytest.raises(ValueError, match="there is no preset 'x'; known are none, light, standard, strong, aerial"):
        preset_policy("x", "detection")
    assert list(PRESETS) == ["none", "light", "standard", "strong", "aerial", "medical", "microscopy"]
