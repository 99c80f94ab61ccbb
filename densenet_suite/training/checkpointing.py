"""Checkpoints: the last one, the one before it, the best one; and the best weights as a model file."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from densenet_suite.errors import ConfigError
from densenet_suite.processes import is_first_process
from densenet_suite.training.averaging import EvaluationWeights
from densenet_suite.training.checkpoint_file import read_checkpoint, write_checkpoint

logger = logging.getLogger(__name__)


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes and reads the checkpoints of a run; Lightning's writer can leave half a file.

    Args:
        last: of this checkpoint the one before is kept, and read where the last is damaged or missing.
        previous: the one before.
    """

    def __init__(self, last: Path, previous: Path):
        self.last = last
        self.previous = previous

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint."""
        write_checkpoint(Path(path), checkpoint, self.previous if Path(path) == self.last else None)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is run.

        Raises:
            ConfigError: it is missing or damaged, and so is the one before it.
        """
        try:
            return read_checkpoint(Path(path), map_location)
        except ConfigError as error:
            if Path(path) != self.last or not self.previous.is_file():
                raise
            reason = error.problems[0].what
            try:
                checkpoint = read_checkpoint(self.previous, map_location)
            except ConfigError as second:
                raise ConfigError([*error.problems, *second.problems]) from error
        logger.warning("%s: %s; going on from the one before, %s", self.last, reason, self.previous)
        if is_first_process() and self.last.is_file():
            # out of the way: it must not become the one before
            self.last.replace(self.last.with_name(f"damaged-{self.last.name}"))
        return checkpoint


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

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last weights where none were judged, before a checkpoint says that training is over."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self._write_unjudged(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last weights where none were judged and training was shorter than planned."""
        self._write_unjudged(trainer, pl_module, trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score for a checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score of a checkpoint."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def _write_unjudged(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        if self.best is None and self.best_epoch != epoch:
            logger.info("nothing to validate on: the model file holds the last weights")
            self.best_epoch = epoch
            with self.weights.applied(trainer, pl_module):
                self._write(trainer, pl_module, None)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, score: float | None) -> None:
        if trainer.is_global_zero:
            self.save(self.path, pl_module, score, self.best_epoch)


class EpochCheckpoints(Checkpoint):
    """Writes a checkpoint at the end of each epoch, and another one of the best epoch.

    Lightning's own would write on the last batch of an epoch, from where a run does not go on as it would have; and it
    forgets what was best in a run folder that was moved.

    Args:
        last: the file that `resume` continues from.
        best_path: the file of the best epoch.
        best: knows which that is.
    """

    def __init__(self, last: Path, best_path: Path, best: BestModel):
        self.last = last
        self.best_path = best_path
        self.best = best

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write."""
        if self.best.best is not None and self.best.best_epoch == trainer.current_epoch + 1:
            trainer.save_checkpoint(self.best_path, weights_only=False)
        trainer.save_checkpoint(self.last, weights_only=False)
