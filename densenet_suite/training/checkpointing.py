"""Checkpoints: the last one, the one before it, the best one; and the best weights as a model file."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from densenet_suite.errors import ConfigError
from densenet_suite.processes import is_first_process
from densenet_suite.training.averaging import EvaluationWeights
from densenet_suite.training.checkpoint_file import read_checkpoint, write_checkpoint
from densenet_suite.training.faults import Storage
from densenet_suite.training.run import Run

logger = logging.getLogger(__name__)
_STEPS_BETWEEN_LOOKS = 16  # at the clock, where several processes have to agree


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes and reads the checkpoints of a run; Lightning's writer can leave half a file.

    Args:
        last: of this checkpoint the one before is kept, and read where the last is damaged or missing.
        previous: the one before.
        storage: decides what becomes of a run whose checkpoint cannot be written.
    """

    def __init__(self, last: Path, previous: Path, storage: Storage):
        self.last = last
        self.previous = previous
        self.storage = storage

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, or count that it could not be written; all processes go on in step either way."""
        path = Path(path)
        if path == self.last:
            with self.storage.checkpoint(path.name):
                write_checkpoint(path, checkpoint, self.previous)
        else:
            with self.storage.side_file(path.name):
                write_checkpoint(path, checkpoint)

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
        storage: counts a model that could not be written; the best score then stays that of the one before.
    """

    def __init__(self, path: Path, monitor: str, save: Any, weights: EvaluationWeights, storage: Storage):
        self.path = path
        self.monitor = monitor
        self.save = save
        self.weights = weights
        self.storage = storage
        self.best: float | None = None
        self.best_epoch = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare and write."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if self.best is None or score > self.best:
            epoch = trainer.current_epoch + 1
            if self._write(trainer, pl_module, score, epoch):
                self.best, self.best_epoch = score, epoch

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
            with self.weights.applied(trainer, pl_module):
                if self._write(trainer, pl_module, None, epoch):
                    self.best_epoch = epoch

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, score: float | None, epoch: int) -> bool:
        """Say whether the file was written: the same in every process."""
        written = False
        if trainer.is_global_zero:
            with self.storage.side_file(self.path.name):
                self.save(self.path, pl_module, score, epoch)
                written = True
        return bool(trainer.strategy.broadcast(written))


class Checkpoints(Checkpoint):
    """Writes a checkpoint every few minutes, at the end of each epoch, and another one of the best epoch.

    Lightning's own would write on the last batch of an epoch, from where a run does not go on as it would have; and it
    forgets what was best in a run folder that was moved.

    Args:
        run: has the names of the files.
        best: knows which epoch is the best.
        storage: ends the run where too many could not be written.
        minutes: between two checkpoints within an epoch, at least; 0 for one after every step.
        batch: images at a time; a checkpoint of a run with twice or more as many is read as one with these.
    """

    def __init__(self, run: Run, best: BestModel, storage: Storage, *, minutes: float, batch: int):
        self.run = run
        self.best = best
        self.storage = storage
        self.seconds = 60 * minutes
        self.batch = batch
        self._saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from here."""
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, where it is time and a run can go on from here as if nothing had happened."""
        if is_between_steps(trainer) and self._is_time(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write."""
        if self.best.best is not None and self.best.best_epoch == trainer.current_epoch + 1:
            trainer.save_checkpoint(self.run.best_checkpoint, weights_only=False)
        self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say what the number of batches that are done counts."""
        checkpoint["images_per_batch"] = self.batch

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count the batches that are done in smaller ones, where batches have become smaller.

        Raises:
            ConfigError: they have become larger, or the former size is no multiple of theirs.
        """
        former = checkpoint.get("images_per_batch", self.batch)
        if former % self.batch:
            raise ConfigError(
                f"the run was trained with train.batch={former} and cannot go on with {self.batch}",
                hint=f"train.batch={former}, or a part of it with more train.accumulate",
            )
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update({name: count * (former // self.batch) for name, count in counts.items()})

    def _is_time(self, trainer: L.Trainer) -> bool:
        if trainer.world_size > 1 and trainer.global_step % _STEPS_BETWEEN_LOOKS:
            return False
        # the clock of the first process decides for all
        return bool(trainer.strategy.broadcast(time.monotonic() - self._saved >= self.seconds))

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.run.last_checkpoint, weights_only=False)
        self._saved = time.monotonic()
        if trainer.strategy.broadcast(self.storage.is_exhausted):
            self.storage.stop()


def is_between_steps(trainer: L.Trainer) -> bool:
    """Say, at the end of a batch, whether a checkpoint written now goes on exactly.

    It does after a whole step of the optimizer, unless an evaluation or the end of the epoch is due: Lightning would
    skip them.
    """
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    assert fetcher is not None
    return not (loop._should_accumulate() or fetcher.done or loop.epoch_loop._should_check_val_fx(fetcher))
