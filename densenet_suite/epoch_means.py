"""Means over an epoch of training that go on where a checkpoint in the middle of it left them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor


class Sums(NamedTuple):
    """What the images of an epoch so far add up to.

    Attributes:
        names: of the terms.
        totals: of each term over the images.
        images: how many they are.
    """

    names: tuple[str, ...] = ()
    totals: Tensor = torch.zeros(0)
    images: float = 0


class EpochMeans(L.Callback):
    """Adds up the terms of a loss where they are, and logs their means over the images at the end of an epoch.

    Lightning's `log` at each step does the same, takes as long as the rest of what a Trainer does beside the network,
    and forgets its sums when a run is stopped.
    """

    def __init__(self) -> None:
        self._sums = Sums()
        self._before = Sums()

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Add a batch.

        Args:
            terms: means over the batch; the same ones in every batch.
            images: in the batch.
        """
        names, values = tuple(terms), torch.stack(list(terms.values())).detach().float() * images
        if self._sums.names:
            assert names == self._sums.names, f"the terms are {names}, and were {self._sums.names}"
            values += self._sums.totals.to(values.device)
        self._sums = Sums(names, values, self._sums.images + images)

    def begin_step(self) -> None:
        """Remember the sums before a step of the optimizer."""
        self._before = self._sums

    def leave_out_step(self) -> None:
        """Take back what was added since `begin_step`."""
        self._sums = self._before

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means, and begin again."""
        names, totals, images = _mean_over_processes(trainer, self._sums)
        means = (totals / max(images, 1)).to(pl_module.device)
        pl_module.log_dict(dict(zip(names, means, strict=True)), sync_dist=True)  # equal in all processes
        self._sums = Sums()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the sums to a checkpoint; each process carries on the mean of all, which gives the same means."""
        checkpoint["epoch_sums"] = _mean_over_processes(trainer, self._sums)._asdict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the sums of a checkpoint."""
        self._sums = Sums(**checkpoint["epoch_sums"])


def _mean_over_processes(trainer: L.Trainer, sums: Sums) -> Sums:
    if trainer.world_size == 1:
        return sums
    carried = torch.cat([sums.totals.double(), sums.totals.new_tensor([sums.images], dtype=torch.float64)])
    reduced = trainer.strategy.reduce(carried, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return Sums(sums.names, reduced[:-1], float(reduced[-1]))
