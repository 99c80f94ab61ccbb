"""A run on two processes of this machine: one folder, every image judged once, the scores of a single process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from densenet_suite import evaluate, train
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


@pytest.mark.parametrize("config_name", ["tiny_config", "tiny_segmenter_config"], ids=["detection", "segmentation"])
def test_two_processes_learn_what_one_with_the_doubled_batch_does(request, tmp_path: Path, config_name: str) -> None:
    config = request.getfixturevalue(config_name)
    # 21 steps; batch norms are frozen, as those of the CPU see the images of their own process only
    fixed = ["train.epochs=7", "trainer.check_val_every_n_epoch=7", "train.freeze=['*norm*']", "model.drop_path=0.0"]
    fixed += ["train.ema=0.0", "train.recalibrate=0", f"output={tmp_path}"]
    fixed += ["train.optimizer.name=sgd", "train.optimizer.lr=0.08"]  # adamw makes much of what is nearly nothing
    two = ["name=two", "train.batch=2", "trainer.devices=2", "trainer.strategy=ddp_find_unused_parameters_true"]
    command = [sys.executable, "-m", "densenet_suite", "train", str(config), *fixed, *two]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    train(config, [*fixed, "name=one", "train.batch=4"])
    ends = [torch.load(tmp_path / f"{name}-001" / "checkpoints" / "last.ckpt") for name in ("two", "one")]
    assert [end["global_step"] for end in ends] == [21, 21]
    start = train(config, [*fixed, "name=start", "train.batch=4", "train.optimizer.lr=1.0e-12", "train.epochs=1"])
    begun = torch.load(start.last_checkpoint)["state_dict"]
    moved = max(float((value - begun[name]).abs().max()) for name, value in ends[1]["state_dict"].items())
    assert moved > 1e-3
    torch.testing.assert_close(ends[0]["state_dict"], ends[1]["state_dict"], rtol=1e-5, atol=1e-6)
    losses = [read_metrics(tmp_path / f"{name}-001" / "metrics.csv") for name in ("two", "one")]
    for ours, theirs in zip(*losses, strict=True):
        assert float(ours["train/loss"]) == pytest.approx(float(theirs["train/loss"]), rel=1e-4)
