"""The section `augment`."""

from dataclasses import asdict

import pytest
import yaml

from densenet_suite.augment import PRESETS, preset_policy
from densenet_suite.config.augment import Preset
from densenet_suite.config.load import config_from_values, dump_config
from densenet_suite.errors import ConfigError


def _config(task="detection", **augment):
    model = {"architecture": "efficientdet_d0"} if task == "detection" else {}
    values = {"task": task, "name": "a", "model": model, "data": {"root": "/"}, "augment": augment}
    return config_from_values(values, where="test", check_paths=False)


def _problem(**changes):
    with pytest.raises(ConfigError) as caught:
        _config(**changes)
    (problem,) = caught.value.problems
    return problem.what, problem.hint


def test_the_presets_of_the_schema_are_those_of_the_table():
    assert Preset.__args__ == tuple(PRESETS)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_every_key(name, task):
    assert _config(task, preset=name).augment.policy == preset_policy(name, task)


def test_a_key_beside_the_preset_overrides_it_and_nothing_else():
    policy = _config(preset="aerial", hue=0.0, scale=[0.2, 2.0]).augment.policy
    changed = {
        key for key, value in asdict(preset_policy("aerial", "detection")).items() if asdict(policy)[key] != value
    }
    assert changed == {"hue", "scale"}
    assert policy.scale == (0.2, 2.0)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_to_the_run_folder_loads_back_to_an_equal_config(name, task):
    config = _config(task, preset=name, flip=0.25)
    assert config_from_values(yaml.safe_load(dump_config(config)), where="test", check_paths=False) == config


def test_config_show_names_the_other_presets():
    line = "  preset: medical  # or none, light, standard, strong, aerial, microscopy\n"
    assert line in dump_config(_config("segmentation", preset="medical"))


def test_names_beside_a_value_are_those_of_its_own_key():
    text = dump_config(_config())
    assert "    name: sgd  # or adamw\n" in text
    assert "  nms: hard  # or soft\n" in text
    assert text.startswith("task: detection\nname: a\n")


def test_an_unknown_preset_is_refused_with_the_known_ones():
    what, _ = _problem(preset="aeriel")
    assert what.startswith("augment.preset: input should be 'none', 'light', 'standard', 'strong', 'aerial', 'medical'")


def test_a_misspelt_key_is_refused_with_the_nearest():
    assert _problem(mosaik=0.5) == ("augment.mosaik: unknown key", "did you mean augment.mosaic?")


def test_what_the_task_cannot_do_is_refused_with_the_remedy():
    assert _problem(task="segmentation", mixup=0.5) == (
        "augment: mixup 0.5: a pixel of a mask is of one class",
        "leave augment.mixup out, or use augment.copy_paste",
    )


def test_a_schedule_without_an_epoch_for_what_it_is_about_is_refused():
    values = {"task": "segmentation", "name": "a", "data": {"root": "/"}, "augment": {"preset": "strong"}}
    values["train"] = {"epochs": 10}
    with pytest.raises(ConfigError) as caught:
        config_from_values(values, where="test", check_paths=False)
    (problem,) = caught.value.problems
    assert problem.what == (
        "augment.plain_epochs 15 leaves none of the 10 epochs for cutout, randaugment, mosaic, copy_paste"
    )
    assert problem.hint == "augment.plain_epochs=2, or more train.epochs"
    values["augment"]["plain_epochs"] = 2
    config_from_values(values, where="test", check_paths=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cutout", 1.5),
        ("randaugment", -1),
        ("magnitude", 11),
        ("compression", 1.0),
        ("plain_epochs", -1),
        ("noise", -0.1),
    ],
)
def test_a_number_out_of_range_is_refused(key, value):
    what, _ = _problem(**{key: value})
    assert what.startswith(f"augment.{key}: input should be ")
