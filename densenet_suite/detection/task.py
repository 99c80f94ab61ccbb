"""Detection as a Lightning module: model, loss, log; the arithmetic is in the parts."""

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from densenet_suite.detection.data import DetectionSamples
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.loss import DetectionLoss, detection_loss
from densenet_suite.detection.metric import CocoEvaluator, DetectionScores, to_file
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import DetectionBatch
from densenet_suite.errors import ConfigError
from densenet_suite.optim import REFERENCE_BATCH, Recipe, freeze, frozen_norms

logger = logging.getLogger(__name__)

# of a run, the share that batch-norm statistics look back on: TensorFlow's momentum is made for 300 epochs of COCO, and
# in a short run would still remember the first steps at its end
_MEMORY = 0.05
_FASTEST_MOMENTUM = 0.1


class DetectionTask(L.LightningModule):
    """Trains and evaluates a detector.

    Args:
        model: from `create_detector`.
        recipe: how weights are updated.
        postprocess: how detections are chosen in evaluation.
        freeze_patterns: names of parameters that are not trained, as shell patterns.
        norms_of_frozen: whether batch norms that are wholly frozen keep their statistics ("fixed") or renew them.

    Attributes:
        scores: of the last evaluation.
        evaluator: with the detections of the last evaluation.
    """

    def __init__(
        self,
        model: EfficientDet,
        recipe: Recipe | None = None,
        postprocess: Postprocess | None = None,
        *,
        freeze_patterns: Sequence[str] = (),
        norms_of_frozen: Literal["fixed", "updated"] = "fixed",
    ):
        super().__init__()
        self.model = model
        self.recipe = recipe or Recipe()
        self.postprocess = postprocess or Postprocess()
        self.scores: DetectionScores | None = None
        self.evaluator: CocoEvaluator | None = None
        if freeze_patterns:
            count = freeze(model, freeze_patterns)
            logger.info("frozen: %d tensors, statistics of their batch norms %s", count, norms_of_frozen)
        self._fixed_norms = frozen_norms(model) if norms_of_frozen == "fixed" else []
        self.train()  # Lightning keeps the modes that it finds

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch norms that are frozen stay in evaluation."""
        super().train(mode)
        for norm in self._fixed_norms:
            norm.eval()
        return self

    def on_fit_start(self) -> None:
        """Fit the momentum of batch norms to the length of the run."""
        steps = int(self.trainer.estimated_stepping_batches)
        suitable = min(_FASTEST_MOMENTUM, 1 / (_MEMORY * steps))
        norms = [norm for norm in self.model.modules() if isinstance(norm, nn.BatchNorm2d)]
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

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = detection_loss(self.model(batch.images), batch.boxes, batch.labels)
        self._log_loss("train", loss, len(batch))
        return loss.total

    def on_validation_epoch_start(self) -> None:
        """Start a new collection."""
        self.evaluator = CocoEvaluator(self._truth(self.trainer.val_dataloaders), self.postprocess.max_detections)

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Log the loss and collect the detections of a batch."""
        raw = self.model(batch.images)
        self._log_loss("val", detection_loss(raw, batch.boxes, batch.labels), len(batch))
        sizes = batch.sizes * batch.scales
        assert self.evaluator is not None
        for i, found in enumerate(self.postprocess(raw, sizes)):
            self.evaluator.update(int(batch.indices[i]), to_file(found, batch.scales[i], batch.sizes[i]))

    def on_validation_epoch_end(self) -> None:
        """Score what was collected; an average that is not defined counts as -1 for whoever compares epochs."""
        assert self.evaluator is not None
        self.evaluator.gather()
        self.scores = self.evaluator.compute()
        for name, value in self.scores.summary.items():
            self.log(f"val/{name}", -1.0 if value is None else value, sync_dist=True)  # equal in all processes

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and the schedule of its learning rate by step."""
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # makes the loader, whose length the schedule needs
        total = int(trainer.estimated_stepping_batches)
        loader = trainer.train_dataloader
        assert loader is not None
        if isinstance(loader.dataset, DetectionSamples):
            self._check_classes(loader.dataset.source)
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

    def _log_loss(self, stage: str, loss: DetectionLoss, images: int) -> None:
        terms = {
            f"{stage}/loss": loss.total,
            f"{stage}/class_loss": loss.classification,
            f"{stage}/box_loss": loss.box,
        }
        self.log_dict(terms, on_step=False, on_epoch=True, batch_size=images, sync_dist=True)

    def _truth(self, loader: Any) -> DetectionSet:
        samples = loader.dataset
        assert isinstance(samples, DetectionSamples), "evaluation needs the data loaders of DetectionData"
        self._check_classes(samples.source)
        return samples.source

    def _check_classes(self, source: DetectionSet) -> None:
        """Stop where labels would mean other classes than the model has.

        Raises:
            ConfigError: the data has more or fewer.
        """
        if len(source.classes) != len(self.model.classes):
            raise ConfigError(
                f"the data has {len(source.classes)} classes, the model {len(self.model.classes)}",
                where=str(source.annotations),
                hint="create_detector(..., classes=data.classes), or DetectionData(..., classes=model.classes)",
            )
