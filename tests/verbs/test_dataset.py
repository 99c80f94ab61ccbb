import json
import shutil

import pytest

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.verbs.dataset import open_dataset, recognise_task


def test_a_folder_with_boxes_is_recognised_with_the_reason(synthetic, tmp_path):
    for folder in ("images", "annotations"):
        shutil.copytree(synthetic / folder, tmp_path / folder)
    task, reason = recognise_task(tmp_path)
    assert task == "detection"
    assert "COCO, as there is" in reason
    assert "instances_train.json" in reason


def test_boxes_whose_pictures_are_missing_are_told_as_that(synthetic, tmp_path):
    shutil.copytree(synthetic / "annotations", tmp_path / "annotations")
    with pytest.raises(DataError, match=r"images"):
        recognise_task(tmp_path)


def test_a_folder_with_masks_is_recognised(synthetic, tmp_path):
    for folder in ("images", "masks"):
        shutil.copytree(synthetic / folder, tmp_path / folder)
    assert recognise_task(tmp_path) == ("segmentation", f"masks, as there is {tmp_path / 'masks' / 'train'}")


def test_a_folder_with_both_has_to_be_told(synthetic):
    with pytest.raises(DataError, match=r"holds boxes \(COCO.*and masks(.|\n)*--task detection or --task segmentation"):
        open_dataset(synthetic)
    assert open_dataset(synthetic, task="detection").config.task == "detection"
    assert len(open_dataset(synthetic, ["data.size=64"], task="detection").data.split("val")) == 5
    assert open_dataset(synthetic, task="segmentation").config.task == "segmentation"


def test_what_is_no_dataset_is_refused_with_what_is_looked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"nothing in the folder is known(.|\n)*COCO(.|\n)*images/train and masks/train"
    ):
        recognise_task(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        recognise_task(tmp_path / "none")


def test_a_task_is_known_and_does_not_contradict_the_config(synthetic, tiny_config):
    with pytest.raises(ConfigError, match=r"no task 'detecton'(.|\n)*did you mean detection"):
        open_dataset(synthetic, task="detecton")
    with pytest.raises(ConfigError, match="config is one of detection, not of segmentation"):
        open_dataset(tiny_config, task="segmentation")


def test_a_config_and_a_run_folder_are_opened_as_they_say(tiny_config, trained_run):
    opened = open_dataset(tiny_config, ["data.size=96"])
    assert opened.config.input_size == (96, 96)
    assert opened.reason == f"config {tiny_config}"
    assert open_dataset(trained_run.dir).reason == f"config {trained_run.dir / 'config.yaml'}"
    assert json.dumps(opened.config.model_dump(mode="json"))
