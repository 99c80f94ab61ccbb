"""A run that hangs ends itself and says where it stood; a stuck drive or a lost process would hold it forever."""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

logger = logging.getLogger(__name__)
EXIT_CODE = 124  # as of the command timeout


class Watchdog(L.Callback):
    """Ends the process where no batch is begun or done for too long.

    Nothing can be saved then, for the thread that trains is the one that is stuck; the last checkpoint is whole.

    Args:
        folder: of the run; the stacks of all threads are written to hang-<rank>.txt in it.
        minutes: without a sign of life; 0 to wait forever.
        report: called before the end, with the trainer and the sentence that says what happened.
        leave: ends the process with an exit code.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        report: Callable[[L.Trainer, str], None],
        leave: Callable[[int], Any] = os._exit,
    ):
        self.folder = folder
        self.limit = 60 * minutes
        self.report = report
        self.leave = leave
        self._alive = time.monotonic()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to watch."""
        if self.limit:
            self._live()
            self._done.clear()
            self._thread = threading.Thread(target=self._watch, args=(trainer,), daemon=True)
            self._thread.start()

    def on_train_batch_start(self, *_: Any) -> None:
        """Show life."""
        self._live()

    def on_train_batch_end(self, *_: Any) -> None:
        """Show life."""
        self._live()

    def on_validation_batch_start(self, *_: Any) -> None:
        """Show life."""
        self._live()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Show life."""
        self._live()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Show life: the epoch has been scored."""
        self._live()

    def on_fit_end(self, *_: Any) -> None:
        """Watch no longer."""
        self._stop()

    def on_exception(self, *_: Any) -> None:
        """Watch no longer."""
        self._stop()

    def _live(self) -> None:
        self._alive = time.monotonic()

    def _stop(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self, trainer: L.Trainer) -> None:
        while not self._done.wait(min(1.0, self.limit / 4)):
            silent = time.monotonic() - self._alive
            if silent > self.limit:
                place = self.folder / f"hang-{trainer.global_rank}.txt"
                with open(place, "w", encoding="utf-8") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                what = (
                    f"no batch was begun or done for {silent / 60:.1f} minutes (train.hang_minutes); see {place.name}"
                )
                logger.error("%s", what)
                self.report(trainer, what)
                self.leave(EXIT_CODE)
                return
