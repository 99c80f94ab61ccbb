"""`data_report.json`: what is in a run's data and what was found in it, kept up while it trains."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from densenet_suite.files import write_json
from densenet_suite.findings import Findings
from densenet_suite.labelled_data import LabelledData
from densenet_suite.processes import is_first_process

logger = logging.getLogger(__name__)
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "note": logging.INFO}


class DataReport(L.Callback):
    """Writes the report before training, and again when pictures turned out to be damaged.

    Args:
        data: the run's.
        path: of the report.
        check: says what the network will make of the splits, and adds to their findings; as far as it costs little,
            for pictures are left to `data check`.
    """

    def __init__(self, data: LabelledData[Any], path: Path, check: Callable[[Mapping[str, Any]], dict[str, Any]]):
        self.data = data
        self.path = path
        self.check = check
        self._network: dict[str, Any] = {}

    def write(self) -> None:
        """Read the splits, say what is in them, and write the report.

        Raises:
            DataError: files are missing or faulty.
        """
        splits = self.data.splits
        self.data.split("train")  # says what is missing where there is nothing to train on
        self._network = self.check(splits)
        told: list[Findings] = []  # splits that were divided share theirs
        for split in splits.values():
            logger.info("%s: %s", split.name, split.describe())
            for finding in split.findings if split.findings not in told else ():
                logger.log(_LEVELS[finding.severity], "%s: %s [%s]", split.name, finding, finding.check)
            told.append(split.findings)
        self._save()
        for split in splits.values():
            split.findings.raise_errors()

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
            reports = [split.report() for split in self.data.splits.values()]
            write_json(self.path, {"splits": reports, "network": self._network})
