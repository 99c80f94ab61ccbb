"""metrics.csv: one row for each epoch, appended and never rewritten, except that a resumed run takes back the epochs
that it repeats."""

import csv
import io
from pathlib import Path
from typing import Any

import lightning as L

from densenet_suite.files import write_text


class MetricsLog(L.Callback):
    """Appends what an epoch logged.

    Args:
        path: of metrics.csv.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop the rows of epochs that are about to be done again."""
        if not self.path.is_file() or not trainer.is_global_zero:
            return
        rows = read_metrics(self.path)
        kept = [row for row in rows if int(row["epoch"]) <= trainer.current_epoch]
        if len(kept) < len(rows):
            write_text(self.path, _to_csv(kept, list(rows[0]), header=True))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the epoch."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **{name: metrics[name] for name in sorted(metrics)},
        }
        columns = list(row)
        exists = self.path.is_file()
        if exists:
            with open(self.path, newline="", encoding="utf-8") as file:
                columns = next(csv.reader(file))
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            file.write(_to_csv([row], columns, header=not exists))


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv, columns by name."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _to_csv(rows: list[dict[str, Any]], columns: list[str], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
