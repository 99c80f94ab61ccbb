"""A run on two processes of this machine: one folder, every image judged once, the scores of a single process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from densenet_suite import evaluate
from densenet_suite.training.metrics_log import read_metrics


@pytest.fixture(scope="module", params=["tiny_config", "tiny_segmenter_config"], ids=["detection", "segmentation"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny_config = request.getfixturevalue(request.param)
    output = tmp_path_factory.mktemp("two")
    command = ["-m", "densenet_suite", "train", str(tiny_config), f"output={output}", "train.batch=2"]
    command += ["trainer.devices=2", "trainer.strategy=ddp", "train.epochs=2"]
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 1
    (run,) = output.iterdir()
    return run


def test_a_single_process_judges_the_same(folder: Path) -> None:
    judged = folder / "eval" / "val"
    scores = json.loads((judged / "metrics.json").read_text())
    (table,) = (judged / name for name in ("predictions.coco.json", "confusion.csv") if (judged / name).is_file())
    found = table.read_text()
    assert evaluate(folder, ["trainer.devices=1", "trainer.strategy=auto"]) == scores
    if table.suffix == ".csv":
        assert table.read_text() == found
    else:
        assert sorted(json.loads(table.read_text()), key=str) == sorted(json.loads(found), key=str)
    assert any(scores.values())


def test_a_step_takes_images_of_both(folder: Path) -> None:
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == ["3", "6"]  # 12 images, 2 on each of 2


def test_both_processes_log_one_history(folder: Path) -> None:
    assert (folder / "log.txt").read_text().count("epoch 2/2") == 1
