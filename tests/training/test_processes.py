"""A run on two processes of this machine: one folder, every image judged once, the scores of a single process."""

import json
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from training.launchers import by_lightning, by_slurm, finish
from training.two_processes import FIXED

from densenet_suite import evaluate
from densenet_suite.config.load import load_config
from densenet_suite.training.fit import fit
from densenet_suite.training.metrics_log import read_metrics
from densenet_suite.training.run import Run

TASKS = {"detection": "tiny_config", "segmentation": "tiny_segmenter_config"}


@pytest.fixture(scope="module")
def runs(tiny_config: Path, tiny_segmenter_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of each task with frozen norms, and of one of segmentation as it comes."""
    output = tmp_path_factory.mktemp("two")
    program = [REPOSITORY / "tests/training/two_processes.py"]
    said = finish(by_slurm([output, tiny_config, tiny_segmenter_config], program))
    assert said.count("report:") == 2  # in the log, and at the end
    return output


@pytest.fixture(scope="module", params=TASKS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "segmentation":
        return request.getfixturevalue("runs") / "whole-001"
    output = tmp_path_factory.mktemp("one-command")
    config = request.getfixturevalue(TASKS[request.param])
    said = finish(by_lightning([config, f"output={output}", "train.batch=2", "train.epochs=2"]))
    assert said.count("report:") == 2
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


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_learn_what_one_with_the_doubled_batch_does(
    request: pytest.FixtureRequest, runs: Path, tmp_path: Path, task: str
) -> None:
    config = request.getfixturevalue(TASKS[task])
    two = runs / f"two-{config.parent.name}-001"

    def fit_alone(name: str, *overrides: str) -> Run:
        checked = load_config(config, [*FIXED, f"output={tmp_path}", f"name={name}", "train.batch=2", *overrides])
        run = Run.create(checked)
        fit(checked, run)
        return run

    one = fit_alone("one")
    ends = [torch.load(folder / "checkpoints" / "last.ckpt") for folder in (two, one.dir)]
    assert [end["global_step"] for end in ends] == [24, 24]
    start = fit_alone("start", "train.optimizer.lr=1.0e-12", "train.epochs=1", "trainer.check_val_every_n_epoch=1")
    begun = torch.load(start.last_checkpoint)["state_dict"]
    moved = max(float((value - begun[name]).abs().max()) for name, value in ends[1]["state_dict"].items())
    assert moved > 1e-3
    torch.testing.assert_close(ends[0]["state_dict"], ends[1]["state_dict"], rtol=1e-5, atol=1e-6)
    losses = [read_metrics(folder / "metrics.csv") for folder in (two, one.dir)]
    for ours, theirs in zip(*losses, strict=True):
        assert float(ours["train/loss"]) == pytest.approx(float(theirs["train/loss"]), rel=1e-4)
