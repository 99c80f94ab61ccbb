"""Signals that end a run early: the step is finished, a checkpoint written, and the run can be resumed."""

import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from densenet_suite.errors import SuiteError
from densenet_suite.training.checkpointing import is_between_steps

logger = logging.getLogger(__name__)
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class InterruptedRunError(SuiteError):
    """A run was stopped by a signal, and can be resumed; the exit code is 128 and the signal's number, as in shells."""

    def __init__(self, number: int, run: Path):
        super().__init__(
            f"{signal.Signals(number).name}: training was interrupted, its state is saved",
            where=str(run),
            hint=f"densenet-suite resume {run}",
        )
        self.exit_code = 128 + number  # type: ignore[misc]  # one class for all signals


class StopNow(BaseException):
    """Leaves all that is going on; no Exception, as torch takes those that come up while it loads for its own."""


class Interruption(Checkpoint):
    """Stops training after a signal; a second one ends the process at once.

    It is a context too, in which the signals are its own: outside of training, as while the data are read, there is
    nothing to save, and one ends the run at once.

    A checkpoint is written where a run can go on from as if nothing had happened: between two steps of the optimizer,
    at the end of an epoch, or, with one process, before the evaluation at the end of an epoch, which is then repeated.
    Several processes stop together; they do not stop in an evaluation, where one may have fewer batches than another.

    It is the last callback, so all others have seen the step.

    Args:
        run: the run folder, to name it.
        last: the checkpoint.
    """

    def __init__(self, run: Path, last: Path):
        self.run = run
        self.last = last
        self.received: int | None = None
        self._former: dict[int, Any] = {}
        self._training = False
        self._evaluating = False

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if kind is StopNow:
            raise self._error() from None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over from Lightning."""
        self._training = True
        self._listen()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a whole step, unless an evaluation or the end of the epoch is due: Lightning would skip them."""
        if is_between_steps(trainer) and self._is_wanted(trainer):
            trainer.save_checkpoint(self.last, weights_only=False)
            self._stop()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop in the evaluation at the end of an epoch."""
        if self.received is None or trainer.world_size > 1 or trainer.state.fn != "fit":
            return
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._evaluating = True
            self._stop()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop; the checkpoint of this epoch has just been written."""
        if self._is_wanted(trainer):
            self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have nothing to save any more."""
        self._training = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the checkpoint of a run that stopped in an evaluation: the training weights are back in only now."""
        if isinstance(exception, InterruptedRunError) and self._evaluating:
            trainer.save_checkpoint(self.last, weights_only=False)
        self._training = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark an evaluation as begun and its first batch as not done: so Lightning starts with it after a resume."""
        if self._evaluating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["total"] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress["current"] |= {"ready": 0, "started": 0, "processed": 0, "completed": 0}

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            former = {number: signal.signal(number, self._receive) for number in SIGNALS}
            self._former = self._former or former

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = number
        if not self._training:
            raise StopNow

    def _is_wanted(self, trainer: L.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.received is not None
        received = trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)
        if received and self.received is None:
            self.received = signal.SIGTERM  # another process got one
        return received

    def _stop(self) -> None:
        raise self._error()

    def _error(self) -> InterruptedRunError:
        assert self.received is not None
        return InterruptedRunError(self.received, self.run)
