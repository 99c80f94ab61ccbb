"""What each key of a config may be."""

import dataclasses
import inspect
import typing

import lightning as L
import pytest
from lightning.fabric.connector import _PRECISION_INPUT_STR, _PRECISION_INPUT_STR_ALIAS
from pydantic import BaseModel, ValidationError

from densenet_suite.augment import preset_policy
from densenet_suite.config import augment, detection, schema, segmentation
from densenet_suite.config.detection import DetectionConfig
from densenet_suite.config.schema import Config, Section
from densenet_suite.config.segmentation import SegmentationConfig
from densenet_suite.config.tasks import TASKS
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.variants import DETECTORS, list_detectors
from densenet_suite.optim import Recipe

MODULES = (schema, augment, detection, segmentation)
SECTIONS = list(
    dict.fromkeys(
        part
        for module in MODULES
        for part in vars(module).values()
        if inspect.isclass(part) and issubclass(part, Section)
    )
)
SHARED = {
    Section,
    Config,
    schema.ModelConfig,
    schema.DataConfig,
    augment.AugmentConfig,
}  # what the tasks' own sections extend


def _config(**changes):
    values = {"task": "detection", "name": "a", "model": {"architecture": "efficientdet_d0"}, "data": {"root": "/"}}
    for dotted, value in changes.items():
        *sections, last = dotted.split("__")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return DetectionConfig.model_validate(values)


def _message(**changes):
    with pytest.raises(ValidationError) as caught:
        _config(**changes)
    (error,) = caught.value.errors()
    return error["msg"]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_is_described(section):
    assert section.__doc__


@pytest.mark.parametrize("section", [part for part in SECTIONS if part is not Section], ids=lambda part: part.__name__)
def test_a_section_takes_no_unknown_key(section):
    with pytest.raises(ValidationError) as caught:
        section.model_validate({"no_such_key": 1})
    assert "extra_forbidden" in {error["type"] for error in caught.value.errors()}


def test_every_section_has_its_place_in_the_config():
    placed, left = set(), list(TASKS.values())
    while left:
        section = left.pop()
        placed.add(section)
        for field in section.model_fields.values():
            parts = [field.annotation, *typing.get_args(field.annotation)]
            left += [part for part in parts if inspect.isclass(part) and issubclass(part, BaseModel)]
    assert placed | SHARED == set(SECTIONS)


def test_a_config_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        _config().name = "b"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "1"), ("seed", 1.0), ("seed", True), ("train__ema", "0.9"), ("name", 3), ("data__root", None),
        ("model__checkpointing", 1), ("model__checkpointing", "yes"), ("train__freeze", "backbone.*"),
        ("train__epochs", 2.5), ("data__workers", True),
    ],
)  # fmt: skip
def test_values_are_never_converted(key, value):
    assert _message(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task", "detect", "Input should be 'detection'"),
        ("name", "a/b", "String should match pattern"),
        ("name", "", "String should match pattern"),
        ("name", "../a", "String should match pattern"),
        ("seed", -1, "greater than or equal to 0"),
        ("model__in_channels", 2, "Input should be 1 or 3"),
        ("model__drop_path", 1.5, "less than or equal to 1"),
        ("model__channels", 0, "greater than or equal to 1"),
        ("model__anchor_scale", 0.0, "greater than 0"),
        ("model__min_level", 1, "greater than or equal to 2"),
        ("model__max_level", 10, "less than or equal to 9"),
        ("data__holdout", 1.1, "less than or equal to 1"),
        ("data__workers", -1, "greater than or equal to 0"),
        ("augment__hue", 0.6, "less than or equal to 0.5"),
        ("augment__scale", (1.0, 0.5), "the smallest scale 1.0 is above the largest 0.5"),
        ("augment__scale", (0.0, 0.5), "greater than 0"),
        ("train__epochs", 0, "greater than or equal to 1"),
        ("train__accumulate", 0, "greater than or equal to 1"),
        ("train__clip", -1.0, "greater than or equal to 0"),
        ("train__ema", 1.0, "less than 1"),
        ("train__recalibrate", -1, "greater than or equal to 0"),
        ("train__frozen_norms", "frozen", "Input should be 'fixed' or 'updated'"),
        ("train__optimizer__name", "adam", "Input should be 'sgd' or 'adamw'"),
        ("train__optimizer__lr", 0.0, "greater than 0"),
        ("train__optimizer__lr", float("inf"), "finite"),
        ("data__holdout", float("nan"), "finite"),
        ("train__warmup_epochs", float("inf"), "finite"),
        ("train__early_stop", {"patience": 0}, "greater than or equal to 1"),
        ("postprocess__nms", "matrix", "Input should be 'hard' or 'soft'"),
        ("postprocess__score_threshold", 2.0, "less than or equal to 1"),
        ("postprocess__max_detections", 0, "greater than or equal to 1"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(key, value, message):
    assert message in _message(**{key: value})


@pytest.mark.parametrize(
    ("value", "size"), [(64, (64, 64)), ([64, 96], (64, 96)), ((64, 96), (64, 96)), (32, (32, 32))]
)
def test_the_size_is_one_side_or_two(value, size):
    assert _config(data__size=value).input_size == size


@pytest.mark.parametrize("value", [31, 0, -64, [64, 16], [64, 96, 3], [64], [], "512", 512.0, True, {"height": 64}])
def test_another_size_is_refused_with_the_rule(value):
    rule = f"should be a whole number of at least 32, or [height, width], got {value!r}"
    assert rule in _message(data__size=value)


@pytest.mark.parametrize("name", list_detectors("efficientdet_d[0-3]"))
def test_the_size_is_the_architectures_where_none_is_given(name):
    assert _config(model__architecture=name).input_size == (DETECTORS[name].size,) * 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("architecture", "efficientdet_d9", "unknown detector 'efficientdet_d9'; did you mean"),
        ("architecture", "x", "unknown detector 'x'; densenet-suite models list shows the names"),
        ("backbone", "efficientnet_b99", "unknown backbone 'efficientnet_b99'"),
        ("backbone", "timm/resnet19", "did you mean timm/resnet1"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(key, value, message):
    assert message in _message(**{f"model__{key}": value})


@pytest.mark.parametrize("name", ["efficientnet_b1", "tf_efficientnet_lite0", "timm/resnet18", "efficientnet(phi=-1)"])
def test_any_backbone_can_be_named(name):
    assert _config(model__backbone=name).model.backbone == name


@pytest.mark.parametrize("key", sorted(schema._OWN_TRAINER_KEYS))
def test_a_reserved_argument_of_the_trainer_says_who_decides_it(key):
    place = schema._OWN_TRAINER_KEYS[key]
    assert f"trainer.{key} is decided by {place}" in _message(trainer={key: 1})


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_3", "model_parallel"])
def test_strategies_that_divide_the_weights_are_refused(strategy):
    message = _message(trainer={"strategy": strategy})
    assert f"trainer.strategy {strategy} divides the weights among processes" in message


@pytest.mark.parametrize("precision", [*schema._CONVERTING, 64])
def test_precisions_that_convert_boxes_are_refused(precision):
    assert f"trainer.precision {precision} converts images and boxes" in _message(trainer={"precision": precision})


KEEPING = ("32", "32-true", "16", "16-mixed", "bf16", "bf16-mixed")


@pytest.mark.parametrize("precision", [*KEEPING, 32, 16])
def test_precisions_that_leave_boxes_alone_are_passed_on(precision):
    assert _config(trainer={"precision": precision}).trainer == {"precision": precision}


def test_every_precision_of_lightning_is_one_or_the_other():
    assert {*schema._CONVERTING, *KEEPING} == {
        *typing.get_args(_PRECISION_INPUT_STR),
        *typing.get_args(_PRECISION_INPUT_STR_ALIAS),
    }


def test_reserved_arguments_are_the_trainers_and_other_keys_decide_them():
    assert set(inspect.signature(L.Trainer).parameters) >= schema._OWN_TRAINER_KEYS.keys()
    for place in schema._OWN_TRAINER_KEYS.values():
        if "." in place:
            section, key = place.split(".")
            assert key in DetectionConfig.model_fields[section].annotation.model_fields


def test_an_argument_the_trainer_does_not_have_suggests_the_nearest():
    message = _message(trainer={"acelerator": "cpu"})
    assert "Lightning's Trainer has no argument 'acelerator'; did you mean accelerator?" in message


def test_any_other_argument_of_the_trainer_passes():
    others = set(inspect.signature(L.Trainer).parameters) - schema._OWN_TRAINER_KEYS.keys()
    assert set(_config(trainer=dict.fromkeys(others)).trainer) == others


def test_averaging_without_recalibration_is_refused_with_the_remedy():
    message = _message(train__recalibrate=0)
    assert "set train.recalibrate above 0, or train.ema: 0" in message
    assert _config(train__recalibrate=0, train__ema=0.0).train.recalibrate == 0


@pytest.mark.parametrize(
    ("section", "built"),
    [
        (detection.DetectionAugmentConfig, preset_policy("standard", "detection")),
        (detection.PostprocessConfig, Postprocess()),
        (segmentation.SegmentationAugmentConfig, preset_policy("standard", "segmentation")),
    ],
)
def test_defaults_are_those_of_what_is_built_from_them(section, built):
    assert section().model_dump() == dataclasses.asdict(built)


def test_the_defaults_of_the_optimizer_are_those_of_the_recipe():
    optimizer, recipe = schema.OptimizerConfig(), Recipe()
    assert optimizer.name == recipe.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        recipe.lr,
        recipe.momentum,
        recipe.weight_decay,
    )
    assert schema.TrainConfig().warmup_epochs == recipe.warmup_epochs


@pytest.mark.parametrize("value", [0, -8, 8.0, True, "8", "Auto", None])
def test_another_batch_than_a_number_or_auto_is_refused_with_the_rule(value):
    assert _message(train__batch=value).endswith(f"should be a whole number of at least 1, or auto, got {value!r}")


@pytest.mark.parametrize(("value", "images"), [(1, 1), (24, 24), ("auto", 8)])
def test_a_batch_that_is_left_to_be_chosen_is_the_usual_one_until_then(value, images):
    config = _config(train__batch=value)
    assert (config.train.batch, config.train.batch_size) == (value, images)


# segmentation


def _segmentation(**changes):
    values = {"task": "segmentation", "name": "a", "data": {"root": "/"}}
    for dotted, value in changes.items():
        *sections, last = dotted.split("__")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return SegmentationConfig.model_validate(values)


def _segmentation_message(**changes):
    with pytest.raises(ValidationError) as caught:
        _segmentation(**changes)
    return " ".join(error["msg"] for error in caught.value.errors())


def test_a_segmentation_needs_a_task_a_name_and_a_folder():
    config = _segmentation()
    assert (config.model.decoder, config.model.backbone, config.input_size) == ("unet", "efficientnet_b0", (256, 256))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model__decoder", "unett", "unknown decoder 'unett'; did you mean unet"),
        ("model__backbone", "efficientnet_b99", "unknown backbone 'efficientnet_b99'"),
        ("model__attention", "se", "Input should be 'scse'"),
        ("model__in_channels", 0, "greater than or equal to 1"),
        ("data__crop", 16, "should be a whole number of at least 32, or [height, width], got 16"),
        ("data__scale", 0.0, "greater than 0"),
        ("data__classes", {"cell": "red"}, "'red' is neither a number nor a colour"),
        ("data__ignore", ("#12345",), "'#12345' is neither a number nor a colour"),
        ("data__mask_name", "mask", "'mask' does not say where the image's name stands"),
        ("loss__terms", (), "at least 1 item"),
        ("loss__terms", ({"name": "dicee"},), "there is no loss 'dicee'; known are cross_entropy"),
        ("loss__class_weights", "even", "Input should be 'balanced'"),
        ("tiles__overlap", 600, "overlap 600 is more than half of size 1024"),
        ("augment__rotate", 200.0, "less than or equal to 180"),
    ],
)
def test_a_wrong_value_of_a_segmentation_is_refused_with_the_rule(key, value, message):
    assert message in _segmentation_message(**{key: value})


def test_classes_are_values_colours_or_lists_of_them():
    classes = {"road": 0, "water": "#0000FF", "rest": (3, "#101010")}
    assert _segmentation(data__classes=classes).data.classes == classes
