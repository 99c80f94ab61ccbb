"""Pictures of what goes into a network."""

from pathlib import Path
from typing import Any

import lightning as L
from PIL import Image

from densenet_suite.report.task_report import TaskReport


class TrainPictures(L.Callback):
    """Writes the first batch of a run as the network sees it, with its labels, before anything is learned from it.

    Args:
        folder: where train_batch.jpg goes.
        report: of the task.
    """

    def __init__(self, folder: Path, report: TaskReport):
        self.folder = folder
        self.report = report

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw, once."""
        target = self.folder / "train_batch.jpg"
        if trainer.is_global_zero and not target.exists():
            Image.fromarray(self.report.draw_batch(batch, pl_module)).save(target, quality=90)
