import json
from types import SimpleNamespace

import pytest
import torch

from densenet_suite.detection.data import DetectionData
from densenet_suite.errors import DataError
from densenet_suite.labelled_data import Reading
from densenet_suite.training.data_report import DataReport

ALONE = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda flags, reduce_op: flags))
MODULE = SimpleNamespace(device=torch.device("cpu"))


def _report(root, folder, skip=True):
    data = DetectionData(root, (64, 96), 4, workers=0, reading=Reading(skip_damaged=skip))
    return data, DataReport(data, folder / "data_report.json", lambda splits: {"objects": 3})


def _listed(folder):
    splits = json.loads((folder / "data_report.json").read_text())["splits"]
    return {split["split"]: [entry["file"] for entry in split["damaged"]] for split in splits}


def test_pictures_that_turn_out_to_be_damaged_are_said_and_listed(synthetic, tmp_path, caplog):
    data, report = _report(synthetic, tmp_path)
    report.write()
    assert _listed(tmp_path) == {"train": [], "val": [], "test": []}
    assert json.loads((tmp_path / "data_report.json").read_text())["network"] == {"objects": 3}
    data.damage("train").add(5)
    report.on_train_epoch_end(ALONE, MODULE)
    data.damage("val").add(2)
    report.on_validation_end(ALONE, MODULE)
    paths = {name: str(data.split(name).paths[i]) for name, i in (("train", 5), ("val", 2))}
    assert _listed(tmp_path) == {"train": [paths["train"]], "val": [paths["val"]], "test": []}
    assert f"train: {paths['train']} cannot be decoded; other pictures take its place" in caplog.text
    assert f"val: {paths['val']} cannot be decoded; its objects count as missed" in caplog.text


def test_what_other_processes_found_is_listed_too(synthetic, tmp_path):
    data, report = _report(synthetic, tmp_path)
    report.write()
    data.damage("train").add(5)
    elsewhere = torch.zeros(12, dtype=torch.uint8).index_fill(0, torch.tensor(7), 1)
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(reduce=lambda flags, reduce_op: getattr(torch, reduce_op)(flags, elsewhere))
    )
    report.on_train_epoch_end(trainer, MODULE)
    assert _listed(tmp_path)["train"] == [str(data.split("train").paths[i]) for i in (5, 7)]


def test_without_a_training_split_there_is_nothing_to_report(tmp_path):
    with pytest.raises(DataError, match="there is no train split"):
        _report(tmp_path, tmp_path)[1].write()
