"""What cannot be done to which data."""

from dataclasses import replace

import numpy as np
import pytest

from densenet_suite.augment import PRESETS, AugmentPolicy, preset_policy
from densenet_suite.augment.capabilities import CAPABILITIES, check_task, fit_to_data
from densenet_suite.augment.photometry import recoloured
from densenet_suite.errors import ConfigError

TASKS = ("detection", "segmentation")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_does_what_its_task_can(name, task):
    check_task(preset_policy(name, task), task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 1), ("uint8", 4), ("float32", 3), ("float32", 13)])
def test_every_preset_adapts_to_the_data(name, task, dtype, bands):
    policy, left_out = fit_to_data(preset_policy(name, task), task, dtype, bands)
    assert (policy == preset_policy(name, task)) == (left_out == "")
    assert fit_to_data(policy, task, dtype, bands) == (policy, "")  # and that is said once
    image = np.random.default_rng(0).integers(0, 255, (20, 24, bands)).astype(dtype)
    for seed in range(6):
        changed = recoloured(image, policy, np.full(bands, 50.0), np.random.default_rng(seed))
        assert (changed.shape, changed.dtype) == (image.shape, image.dtype)


def test_colours_of_8_bits_lose_nothing():
    for name in PRESETS:
        assert fit_to_data(preset_policy(name, "detection"), "detection", "uint8", 3)[1] == ""


def test_what_a_preset_does_without_is_said_with_the_reason():
    policy, left_out = fit_to_data(preset_policy("aerial", "segmentation"), "segmentation", "float32", 13)
    assert (policy.saturation, policy.hue, policy.compression, policy.brightness) == (0, 0, 0, 0.2)
    assert left_out == (
        "augment.preset aerial without saturation and hue (8 bits and 3 bands), compression (8 bits and 1 or 3 bands): "
        "images are float32 of 13 bands"
    )


@pytest.mark.parametrize(
    ("key", "dtype", "bands", "message", "hint"),
    [
        (
            "hue", "float32", 13,
            "augment.hue 0.1 needs 8 bits and 3 bands; these images are float32 of 13 bands",
            "leave augment.hue out, or use augment.brightness, which changes any bands",
        ),
        (
            "saturation", "uint8", 1,
            "augment.saturation 0.1 needs 8 bits and 3 bands; these images are uint8 of 1 band",
            "leave augment.saturation out, or use augment.contrast, which changes any bands",
        ),
        (
            "compression", "float32", 3,
            "augment.compression 0.1 needs 8 bits and 1 or 3 bands; these images are float32 of 3 bands",
            "augment.compression=0, or use augment.blur, which works on any bands",
        ),
        (
            "gamma", "float32", 1,
            "augment.gamma 0.1 needs 8 bits; these images are float32 of 1 band",
            "augment.gamma=0, or use augment.contrast, which needs no largest value",
        ),
    ],
)  # fmt: skip
def test_a_number_of_the_users_own_that_cannot_be_done_is_refused(key, dtype, bands, message, hint):
    policy = replace(preset_policy("standard", "segmentation"), **{key: 0.1})
    with pytest.raises(ConfigError) as caught:
        fit_to_data(policy, "segmentation", dtype, bands)
    (problem,) = caught.value.problems
    assert (problem.what, problem.hint) == (message, hint)


def test_all_that_is_refused_is_said_at_once():
    policy = AugmentPolicy(hue=0.1, saturation=0.1, compression=0.5)
    with pytest.raises(ConfigError) as caught:
        fit_to_data(policy, "segmentation", "float32", 4)
    assert [problem.what.split()[0] for problem in caught.value.problems] == [
        "augment.saturation", "augment.hue", "augment.compression"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "key", "message", "hint"),
    [
        (
            "segmentation", "mixup", "augment.mixup 0.1: a pixel of a mask is of one class",
            "leave augment.mixup out, or use augment.copy_paste",
        ),
        ("segmentation", "min_visibility", "augment.min_visibility 0.1: a mask has no boxes",
            "leave augment.min_visibility out"),
        (
            "detection", "elastic", "augment.elastic 0.1: the box of an object that is bent is not known",
            "leave augment.elastic out, or use augment.rotate",
        ),
    ],
)  # fmt: skip
def test_what_the_task_cannot_do_is_refused(task, key, message, hint):
    with pytest.raises(ConfigError) as caught:
        check_task(replace(preset_policy("strong", task), **{key: 0.1}), task)
    (problem,) = caught.value.problems
    assert (problem.what, problem.hint) == (message, hint)


def test_every_key_of_the_table_is_one_of_the_policy():
    assert set(CAPABILITIES) <= set(AugmentPolicy.__dataclass_fields__)
