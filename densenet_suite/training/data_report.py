"""`data_report.json`: what is in a run's data and what was found in it, kept up while it trains."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch

from densenet_suite.files import write_json
from densenet_suite.labelled_data import LabelledData
from densenet_suite.processes import is_first_process

logger = logging.getLogger(__name__)


class DataReport(L.Callback):
    """Writes the report before training, and again when pictures turned out to be damaged.

    Args:
        data: the run's.
        path: of the report.
    """

    def __init__(self, data: LabelledData[Any], path: Path):
        self.data = data
        self.path = path

    def write(self) -> None:
        """Read the splits, say what is in them, and write the report.

        Raises:
            DataError: files are missing or faulty.
        """
        self._save()
        self.data.split("train")  # says what is missing where there is nothing to train on
        for split in self.data.splits.values():
            logger.info("%s: %s", split.name, split.describe())
            for finding in split.findings:
                logger.warning("%s: %s", split.name, finding)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say which training pictures turned out to be damaged."""
        self._update(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say which pictures of the evaluation did."""
        self._update(trainer, pl_module)

    def _update(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for damage in self.data.damaged.values():
            here = torch.frombuffer(bytearray(damage.flags), dtype=torch.uint8).to(module.device)
            damage.merge(bytes(trainer.strategy.reduce(here, reduce_op="max").tolist()))  # of all processes
        lines = self.data.note_damage()
        for line in lines:
            logger.warning("%s", line)
        if lines:
            self._save()

    def _save(self) -> None:
        if is_first_process():
            write_json(self.path, {"splits": [split.report() for split in self.data.splits.values()]})
