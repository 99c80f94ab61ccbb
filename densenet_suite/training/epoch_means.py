"""Means over an epoch that go on where a checkpoint in the middle of it left them."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


class EpochMeans(L.Callback):
    """Carries the sums behind what `self.log(..., on_epoch=True)` has of this epoch; Lightning forgets them.

    Several processes carry the mean of their sums, which gives the same mean over all.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._before: dict[str, tuple[Tensor, Tensor]] = {}

    def begin_step(self, trainer: L.Trainer) -> None:
        """Remember the sums before a step of the optimizer."""
        means = (metric for metric in trainer.fit_loop.epoch_loop._results.values() if _is_mean(metric))
        self._before = {m.meta.name: (m.value.clone(), m.cumulated_batch_size.clone()) for m in means}

    def leave_out_step(self, trainer: L.Trainer) -> None:
        """Take back what was logged since `begin_step`."""
        for metric in trainer.fit_loop.epoch_loop._results.values():
            if _is_mean(metric):
                nothing = torch.zeros_like(metric.value), torch.zeros_like(metric.cumulated_batch_size)
                metric.value, metric.cumulated_batch_size = self._before.get(metric.meta.name, nothing)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put the carried sums beneath those of the first batch after a resume: rounded as if nothing had happened."""
        for metric in trainer.fit_loop.epoch_loop._results.values():
            total, count = self._sums.pop(metric.meta.name, (None, None))
            if total is not None and count is not None:
                metric.value = total.to(metric.value) + metric.value
                metric.cumulated_batch_size = count.to(metric.value.device) + metric.cumulated_batch_size

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what is carried where no batch followed: the run was stopped in the evaluation at the end of an epoch."""
        for name, (total, count) in self._sums.items():
            pl_module.log(name, (total / count).to(pl_module.device), sync_dist=True)
        self._sums = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the sums to a checkpoint, in the middle of an epoch."""
        sums = dict(self._sums)  # again, where a run is stopped before the next batch
        if not _is_over(trainer):
            for metric in trainer.fit_loop.epoch_loop._results.values():
                if _is_mean(metric) and not metric.has_reset:
                    total = _mean_over_processes(trainer, metric.value.detach().clone())
                    count = _mean_over_processes(trainer, metric.cumulated_batch_size.clone())
                    sums[metric.meta.name] = (total, count)
        checkpoint["epoch_sums"] = sums

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the sums of a checkpoint."""
        self._sums = dict(checkpoint["epoch_sums"])


def _is_mean(metric: Any) -> bool:
    return bool(metric.is_tensor and metric.meta.on_epoch and metric.meta.is_mean_reduction)


def _is_over(trainer: L.Trainer) -> Any:
    progress: Any = trainer.fit_loop.epoch_progress.current
    return progress.processed > progress.completed


def _mean_over_processes(trainer: L.Trainer, value: Tensor) -> Tensor:
    if trainer.world_size == 1:
        return value
    reduced = trainer.strategy.reduce(value.to(torch.float64), reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced
