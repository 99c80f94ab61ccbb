"""A run on two processes of this machine: one folder, every image judged once, the scores of a single process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from densenet_suite import evaluate
from densenet_suite.training.metrics_log import read_metrics


@pytest.fixture(scope="module")
def folder(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("two")
    command = ["-m", "densenet_suite", "train", str(tiny_config), f"output={output}", "train.batch=2"]
    command += ["trainer.devices=2", "trainer.strategy=ddp", "train.epochs=2"]
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 1
    (run,) = output.iterdir()
    return run


def test_a_single_process_judges_the_same(folder: Path) -> None:
    files = [folder / "eval" / "val" / name for name in ("metrics.json", "predictions.coco.json")]
    scores, found = (json.loads(file.read_text()) for file in files)
    assert evaluate(folder, ["trainer.devices=1", "trainer.strategy=auto"]) == scores
    assert sorted(json.loads(files[1].read_text()), key=str) == sorted(found, key=str)
    assert found


def test_a_step_takes_images_of_both(folder: Path) -> None:
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == ["3", "6"]  # 12 images, 2 on each of 2


def test_both_processes_log_one_history(folder: Path) -> None:
    assert (folder / "log.txt").read_text().count("epoch 2/2") == 1
