"""Real pictures from end to end, through the command line and the shipped configs."""

import json
from pathlib import Path

import pytest
from conftest import REPOSITORY

from densenet_suite import cli

SMALL = ["train.epochs=1", "train.batch=4", "data.size=128", "trainer.limit_train_batches=2", "train.recalibrate=8"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.mark.parametrize(
    ("name", "images"), [("coco-official", {"train": 19, "val": 5}), ("coco-mini", {"train": 128, "val": 88})]
)
def test_a_set_is_trained_on_evaluated_and_predicted(
    data_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, images: dict[str, int]
) -> None:
    root = data_folder(name)
    config = REPOSITORY / "configs" / "detect_coco_d0.yaml"
    assert run("train", config, f"data.root={root}", f"output={tmp_path}", *SMALL, "trainer.limit_val_batches=2") == 0
    folder = tmp_path / "coco-d0-001"
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    report = json.loads((folder / "data_report.json").read_text())
    assert {split["split"]: split["images"] for split in report["splits"]} == images
    capsys.readouterr()
    assert run("evaluate", folder, "trainer.limit_val_batches=1", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["AP"] <= 1
    source = sorted((root / "images").rglob("*.jpg"))[0]
    assert run("predict", folder, source, "--out", tmp_path / "found", "--score-threshold", 0.0) == 0
    assert (tmp_path / "found" / f"{source.stem}.jpg").is_file()
