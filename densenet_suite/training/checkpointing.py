"""Checkpoints that are whole or absent, and the best weights as a model file."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from densenet_suite.errors import ConfigError
from densenet_suite.files import atomic_write
from densenet_suite.training.averaging import EvaluationWeights

logger = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it and renames it; Lightning's writer can leave half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is run.

        Raises:
            ConfigError: it is missing or damaged.
        """
        try:
            return dict(torch.load(path, map_location=map_location, weights_only=True))
        except FileNotFoundError:
            raise ConfigError("there is no checkpoint to continue from", where=str(path)) from None
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"checkpoint is damaged: {reason}", where=str(path)) from error


class BestModel(L.Callback):
    """Writes the judged weights as a model file whenever their score is the best so far.

    It stands before `EvaluationWeights` in the list of callbacks, so the judged weights are still in the model.

    Args:
        path: of the model file.
        monitor: the score, higher is better.
        save: writes the model of a task; called as save(path, task, score, epoch).
        weights: puts the judged weights in where a run has nothing to validate on.
    """

    def __init__(self, path: Path, monitor: str, save: Any, weights: EvaluationWeights):
        self.path = path
        self.monitor = monitor
        self.save = save
        self.weights = weights
        self.best: float | None = None
        self.best_epoch = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare and write."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if self.best is None or score > self.best:
            self.best, self.best_epoch = score, trainer.current_epoch + 1
            self._write(trainer, pl_module, score)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last weights where none were judged."""
        if self.best is None:
            logger.info("nothing to validate on: the model file holds the last weights")
            self.best_epoch = trainer.current_epoch
            with self.weights.applied(trainer, pl_module):
                self._write(trainer, pl_module, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score for a checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score of a checkpoint."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, score: float | None) -> None:
        if trainer.is_global_zero:
            self.save(self.path, pl_module, score, self.best_epoch)
