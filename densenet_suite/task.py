"""What training has in common, whatever is trained: optimizer and schedule, frozen parts, norms in short runs."""

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from densenet_suite.epoch_means import EpochMeans
from densenet_suite.norm_act import BatchNorm
from densenet_suite.optim import REFERENCE_BATCH, Recipe, freeze, frozen_norms
from densenet_suite.sampling import EpochOrder

logger = logging.getLogger(__name__)

# of a run, the share that batch-norm statistics look back on: TensorFlow's momentum is made for 300 epochs of COCO, and
# in a short run would still remember the first steps at its end
_MEMORY = 0.05
_FASTEST_MOMENTUM = 0.1


class Task(L.LightningModule):
    """Base of the tasks: a network and how it is trained.

    Args:
        model: the network.
        recipe: how weights are updated.
        freeze_patterns: names of parameters that are not trained, as shell patterns.
        norms_of_frozen: whether batch norms that are wholly frozen keep their statistics ("fixed") or renew them.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe | None = None,
        *,
        freeze_patterns: Sequence[str] = (),
        norms_of_frozen: Literal["fixed", "updated"] = "fixed",
    ):
        super().__init__()
        self.model = model
        self.recipe = recipe or Recipe()
        self.means = EpochMeans()
        if freeze_patterns:
            count = freeze(model, freeze_patterns)
            logger.info("frozen: %d tensors, statistics of their batch norms %s", count, norms_of_frozen)
        self._norms_of_frozen = norms_of_frozen
        self.train()  # Lightning keeps the modes that it finds

    def check_data(self, samples: Any) -> None:
        """Stop where the dataset of a loader does not fit the network; called before anything is learned."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch norms that are frozen stay in evaluation."""
        super().train(mode)
        if self._norms_of_frozen == "fixed":
            for norm in frozen_norms(self.model):
                norm.eval()
        return self

    def configure_callbacks(self) -> list[L.Callback]:
        """Have the means of the losses logged by any Trainer."""
        trainer: Any = self.trainer
        return [] if self.means in trainer.callbacks else [self.means]

    def on_fit_start(self) -> None:
        """Fit the momentum of batch norms to the length of the run."""
        steps = int(self.trainer.estimated_stepping_batches)
        suitable = min(_FASTEST_MOMENTUM, 1 / (_MEMORY * steps))
        norms = [norm for norm in self.model.modules() if isinstance(norm, BatchNorm)]
        slow = [norm for norm in norms if norm.momentum is not None and norm.momentum < suitable]
        for norm in slow:
            norm.momentum = suitable
        if slow:
            logger.info(
                "batch-norm momentum of %d layers raised to %.3g, to suit a run of %d steps",
                len(slow),
                suitable,
                steps,
            )

    def on_train_start(self) -> None:
        """Go on in the data where a checkpoint in the middle of an epoch left it.

        Nothing that was seen is read again. Lightning made the loader's iterator before it knew of the checkpoint, so
        it gets another one.
        """
        loop = self.trainer.fit_loop
        loader = self.trainer.train_dataloader
        sampler = getattr(loader, "sampler", None)
        if not loop.restarting or loader is None or not isinstance(sampler, EpochOrder):
            return
        epochs: Any = loop.epoch_progress.current
        batches: Any = loop.epoch_loop.batch_progress.current
        if loop.restarted_mid_epoch:
            sampler.skip(epochs.processed, batches.processed * loader.batch_size)
        sampler.set_epoch(epochs.processed)
        fetcher = loop._data_fetcher
        assert fetcher is not None
        iter(fetcher)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the schedule of its learning rate by step."""
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # makes the loader, whose length the schedule needs
        total = int(trainer.estimated_stepping_batches)
        loader = trainer.train_dataloader
        assert loader is not None
        self.check_data(loader.dataset)
        global_batch = loader.batch_size * trainer.accumulate_grad_batches * trainer.world_size
        per_epoch = math.ceil(len(loader) / trainer.accumulate_grad_batches)
        optimizer = self.recipe.build(self.model, global_batch)
        logger.info(
            "learning rate %.4g for a global batch of %d (%.4g for %d)",
            self.recipe.lr_for(global_batch),
            global_batch,
            self.recipe.lr,
            REFERENCE_BATCH,
        )
        schedule = LambdaLR(optimizer, lambda step: self.recipe.factor(step, per_epoch, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
