from pathlib import Path
from types import SimpleNamespace

import torch

from densenet_suite.training import metrics_log
from densenet_suite.training.faults import Faults, Storage
from densenet_suite.training.metrics_log import MetricsLog, read_metrics


def log_in(folder: Path) -> MetricsLog:
    return MetricsLog(folder / "metrics.csv", Storage(folder, 0, Faults()))


def epoch(log: MetricsLog, number: int, validated: bool = True, **metrics: float) -> None:
    trainer = SimpleNamespace(
        is_global_zero=True,
        current_epoch=number - 1,
        global_step=10 * number,
        callback_metrics={name.replace("_", "/", 1): torch.tensor(value) for name, value in metrics.items()},
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.5}])],
    )
    log.on_train_epoch_start(trainer, None)
    if validated:
        log.on_validation_end(trainer, None)
    log.on_train_epoch_end(trainer, None)


def test_one_row_for_each_epoch(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    epoch(log, 1, train_loss=2.0, val_AP=0.25)
    epoch(log, 2, train_loss=1.5, val_AP=0.5)
    assert read_metrics(log.path) == [
        {"epoch": "1", "step": "10", "lr": "0.5", "train/loss": "2.0", "val/AP": "0.25"},
        {"epoch": "2", "step": "20", "lr": "0.5", "train/loss": "1.5", "val/AP": "0.5"},
    ]


def test_a_score_of_an_earlier_epoch_is_not_repeated(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    epoch(log, 1, train_loss=2.0, val_AP=0.25)
    epoch(log, 2, validated=False, train_loss=1.5, val_AP=0.25)
    assert [row["val/AP"] for row in read_metrics(log.path)] == ["0.25", ""]


def test_a_later_metric_gets_a_column(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    epoch(log, 1, validated=False, train_loss=2.0)
    epoch(log, 2, train_loss=1.5, val_AP=0.5)
    assert [row["val/AP"] for row in read_metrics(log.path)] == ["", "0.5"]


def test_epochs_that_are_done_again_are_taken_back(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    for number in (1, 2, 3):
        epoch(log, number, train_loss=1.0)
    log.on_train_start(SimpleNamespace(is_global_zero=True, current_epoch=1), None)
    assert [row["epoch"] for row in read_metrics(log.path)] == ["1"]


def test_rows_that_could_not_be_written_come_with_the_next(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log = log_in(tmp_path)
    epoch(log, 1, train_loss=2.0)
    with monkeypatch.context() as patched:
        patched.setattr(metrics_log, "write_text", full)
        epoch(log, 2, train_loss=1.5)
    assert log.storage.faults.counts == {"unwritten_files": 1}
    resumed = log_in(tmp_path)
    resumed.load_state_dict(log.state_dict())
    epoch(resumed, 3, train_loss=1.0)
    assert [row["train/loss"] for row in read_metrics(log.path)] == ["2.0", "1.5", "1.0"]
