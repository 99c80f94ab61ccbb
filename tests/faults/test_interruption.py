"""Runs that a signal stops: what they leave behind, and that a resume goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file

from densenet_suite.config.load import load_config, save_config
from densenet_suite.training.fit import fit
from densenet_suite.training.interruption import InterruptedRunError, Interruption
from densenet_suite.training.metrics_log import read_metrics
from densenet_suite.training.run import Run

# 12 images: 6 batches in an epoch, and a step of the optimizer for each 4 of them, the last of 2
OVERRIDES = ["train.epochs=2", "train.batch=2", "train.accumulate=4", "train.recalibrate=20", "model.drop_path=0.2"]
Place = tuple[str, int, int]


class SignalAt(L.Callback):
    """Sends this process a signal in a batch of a stage."""

    def __init__(self, place: Place, number: int = signal.SIGTERM):
        self.place = place
        self.number = number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._send("train", trainer, batch_idx)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self._send("val", trainer, batch_idx)

    def _send(self, stage: str, trainer: L.Trainer, batch_idx: int) -> None:
        if self.place == (stage, trainer.current_epoch, batch_idx):
            os.kill(os.getpid(), self.number)


def stop(run: Run, place: Place, number: int = signal.SIGTERM, *, resume: bool = True) -> InterruptedRunError:
    with pytest.raises(InterruptedRunError) as raised:
        fit(run.config, run, resume=resume, callbacks=(SignalAt(place, number),))
    assert run.summary["status"] == "interrupted"
    return raised.value


@pytest.fixture(scope="module", params=["tiny_config", "tiny_segmenter_config"], ids=["detection", "segmentation"])
def whole_and_stopped(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Return a run that went through, and one that was stopped three times, and read its images in another process."""
    config_file = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("stopped")
    config = load_config(config_file, [f"output={folder}", "name=whole", *OVERRIDES])
    whole = Run.create(config)
    fit(config, whole)
    stopped = Run.create(load_config(config_file, [f"output={folder}", "name=stopped", "data.workers=1", *OVERRIDES]))
    stop(stopped, ("train", 0, 1), resume=False)  # in the middle of the first step
    assert stopped.summary["steps"] == 1
    stop(stopped, ("val", 0, 1))
    assert not stopped.metrics_path.exists()
    stop(stopped, ("train", 1, 0))
    save_config(load_config(stopped.config_path, ["data.workers=0"]), stopped.config_path)
    fit(stopped.config, stopped, resume=True)
    return whole, stopped


def test_a_stopped_run_ends_in_the_same_state(whole_and_stopped: tuple[Run, Run]) -> None:
    whole, stopped = (torch.load(run.last_checkpoint) for run in whole_and_stopped)
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "recent_images"):
        torch.testing.assert_close(stopped[part], whole[part], rtol=0, atol=0)
    averages = [checkpoint["callbacks"]["EvaluationWeights"] for checkpoint in (stopped, whole)]
    torch.testing.assert_close(*averages, rtol=0, atol=0)


def test_a_stopped_run_keeps_the_same_best_model(whole_and_stopped: tuple[Run, Run]) -> None:
    whole, stopped = (load_file(run.model_path) for run in whole_and_stopped)
    torch.testing.assert_close(stopped, whole, rtol=0, atol=0)


def test_losses_and_scores_of_a_stopped_run_are_the_same_to_the_digit(whole_and_stopped: tuple[Run, Run]) -> None:
    whole, stopped = whole_and_stopped
    assert stopped.metrics_path.read_text() == whole.metrics_path.read_text()
    assert [row["epoch"] for row in read_metrics(stopped.metrics_path)] == ["1", "2"]


def test_a_group_of_processes_that_is_told_to_end_leaves_a_run_that_goes_on(tiny_config: Path, tmp_path: Path) -> None:
    overrides = [f"output={tmp_path}", "train.epochs=900", "train.batch=1", "data.workers=1"]
    command = [sys.executable, "-m", "densenet_suite", "train", str(tiny_config), *overrides]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)
    run = Run(tmp_path / "tiny-001")
    while not run.metrics_path.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # its worker too, as Slurm does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "SIGTERM: training was interrupted, its state is saved" in said
    assert f"densenet-suite resume {run.dir}" in said
    assert "Traceback" not in said
    summary = run.summary
    assert summary["status"] == "interrupted"
    epochs = summary["epochs"] + 1
    save_config(load_config(run.config_path, [f"train.epochs={epochs}", "data.workers=0"]), run.config_path)
    fit(run.config, run, resume=True)
    assert run.summary["status"] == "finished"
    assert run.summary["steps"] == 12 * epochs
    assert [int(row["epoch"]) for row in read_metrics(run.metrics_path)] == list(range(1, epochs + 1))


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_the_exit_code_tells_the_signal(name: str, code: int, tmp_path: Path) -> None:
    assert InterruptedRunError(getattr(signal, name), tmp_path).exit_code == code


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, object]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, signal.getsignal(number))))
    interruption = Interruption(tmp_path, tmp_path / "last.ckpt")
    before = signal.getsignal(signal.SIGTERM)
    interruption.on_train_start(None, None)  # type: ignore[arg-type]
    signal.raise_signal(signal.SIGTERM)
    assert (interruption.received, sent) == (signal.SIGTERM, [])
    signal.raise_signal(signal.SIGTERM)
    assert sent == [(os.getpid(), signal.SIG_DFL)]
    interruption.on_train_end(None, None)  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGTERM) == before
