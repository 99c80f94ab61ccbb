"""What a person sees of a run: one durable line for each epoch, and a live bar below it on a terminal."""

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


class EpochLines(L.Callback):
    """Logs a line at the end of each epoch, and shows progress within it where standard error is a terminal.

    Args:
        monitor: the score that decides which epoch is best.
        losses: of the line, as (key, title).
        scores: of the line, as (key, title), shown in percent in the epochs that were evaluated.
    """

    def __init__(self, monitor: str, losses: Sequence[tuple[str, str]], scores: Sequence[tuple[str, str]]):
        self.monitor = monitor
        self.losses = tuple(losses)
        self.scores = tuple(scores)
        self.best: float | None = None
        self._started = self._epoch_started = time.monotonic()
        self._first_epoch = 0
        self._trained = self._started
        self._images = 0
        self._validated = False
        self._progress: Progress | None = None
        self._bar: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._first_epoch = trainer.current_epoch
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        self._epoch_started = time.monotonic()
        self._images = 0
        self._validated = False
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            title = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
            done = progress.processed if trainer.fit_loop.restarted_mid_epoch else 0
            self._bar = self._progress.add_task(title, total=int(trainer.num_training_batches), completed=done)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        self._images += len(batch) * trainer.world_size
        if self._progress is not None:
            self._progress.advance(self._bar)
        self._trained = time.monotonic()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that evaluation is what takes the time now."""
        self._validated = True
        if self._progress is not None:
            self._progress.update(self._bar, description="evaluating")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the line."""
        self._close()
        if trainer.is_global_zero:
            logger.info("%s", self._line(trainer))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the bar away."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Return the best score for a checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score of a checkpoint."""
        self.best = state_dict["best"]

    def _line(self, trainer: L.Trainer) -> str:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        parts = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}"]
        parts += [f"{title} {metrics[key]:.3f}" for key, title in self.losses if key in metrics]
        if self._validated:
            parts += [f"{title} {_percent(metrics[key])}" for key, title in self.scores if key in metrics]
            score = metrics[self.monitor]
            is_best = self.best is None or score > self.best
            self.best = score if is_best else self.best
            parts.append("(best)" if is_best else f"(best {_percent(self.best)})")
        parts.append(f"lr {trainer.optimizers[0].param_groups[0]['lr']:.2g}")
        if torch.cuda.is_available():
            parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GB")
        now = time.monotonic()
        parts.append(f"{self._images / max(1e-9, self._trained - self._epoch_started):.1f} img/s")
        done = epoch - self._first_epoch
        parts.append(_duration(now - self._epoch_started))
        if epoch < epochs:
            parts.append(f"eta {_duration((now - self._started) / done * (epochs - epoch))}")
        return "  ".join(parts)

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _percent(value: float | None) -> str:
    return "n/a" if value is None or value < 0 else f"{100 * value:.1f}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
