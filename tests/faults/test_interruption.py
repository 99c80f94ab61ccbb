"""Runs that a signal stops: what they leave behind, and that a resume goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from densenet_suite.config.load import load_config, save_config
from densenet_suite.training.data_report import DataReport
from densenet_suite.training.fit import fit
from densenet_suite.training.interruption import InterruptedRunError, Interruption
from densenet_suite.training.metrics_log import read_metrics
from densenet_suite.training.run import Run


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
    before = signal.getsignal(signal.SIGTERM)
    with Interruption(tmp_path, tmp_path / "last.ckpt") as interruption:
        interruption.on_train_start(None, None)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        assert (interruption.received, sent) == (signal.SIGTERM, [])
        signal.raise_signal(signal.SIGTERM)
        assert sent == [(os.getpid(), signal.SIG_DFL)]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_before_the_first_step_ends_a_run_at_once(
    name: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_config, [f"output={tmp_path}"])
    run = Run.create(config)

    def write(report: DataReport) -> None:
        try:
            signal.raise_signal(getattr(signal, name))
        except Exception as error:  # as torch does while it loads a state
            raise RuntimeError("while copying the parameter ...") from error

    monkeypatch.setattr(DataReport, "write", write)
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(InterruptedRunError, match=name):
        fit(config, run)
    assert signal.getsignal(getattr(signal, name)) == before
    monkeypatch.undo()
    fit(config, run, resume=True)
    assert run.summary["status"] == "finished"
