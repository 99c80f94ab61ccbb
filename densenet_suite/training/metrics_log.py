"""metrics.csv: one row for each epoch, and a history without gaps or doubles, whatever stops a run."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from densenet_suite.files import write_text
from densenet_suite.training.faults import Storage


class MetricsLog(L.Callback):
    """Appends what an epoch logged.

    A resumed run takes back the epochs that it repeats; an epoch that was not evaluated leaves its scores blank; a
    metric that comes later gets a column of its own.

    Args:
        path: of metrics.csv.
        storage: counts rows that could not be written; they are written with the next one.
    """

    def __init__(self, path: Path, storage: Storage):
        self.path = path
        self.storage = storage
        self._validated = False
        self._unwritten: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the rows of epochs that are about to be done again."""
        if self.path.is_file() and trainer.is_global_zero:
            rows = read_metrics(self.path)
            kept = [row for row in rows if int(row["epoch"]) <= trainer.current_epoch]
            if len(kept) < len(rows):
                write_text(self.path, _to_csv(kept, list(rows[0])))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Expect an evaluation."""
        self._validated = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that the scores are of this epoch."""
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the epoch."""
        # in every process: the means are made over all of them here
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **{name: value for name, value in metrics.items() if self._validated or not name.startswith("val/")},
        }
        self._unwritten.append(row)
        with self.storage.side_file(self.path.name):
            rows: list[Mapping[str, Any]] = [*read_metrics(self.path)] if self.path.is_file() else []
            rows += self._unwritten
            columns = list(dict.fromkeys(name for row in rows for name in row))
            write_text(self.path, _to_csv(rows, columns))
            self._unwritten = []

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that wait for room, for a checkpoint."""
        return {"unwritten": self._unwritten}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of a checkpoint."""
        self._unwritten = list(state_dict["unwritten"])


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv, columns by name."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
