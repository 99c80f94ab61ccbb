"""Detection as a Lightning module: model, loss, log; the arithmetic is in the parts."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from densenet_suite.collectives import sum_over_processes
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.loss import DetectionLoss, detection_loss
from densenet_suite.detection.metric import CocoEvaluator, DetectionScores, to_file
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.samples import DetectionSamples
from densenet_suite.detection.structures import DetectionBatch
from densenet_suite.errors import ConfigError
from densenet_suite.optim import Recipe
from densenet_suite.task import Task


class DetectionTask(Task):
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

    model: EfficientDet

    def __init__(
        self,
        model: EfficientDet,
        recipe: Recipe | None = None,
        postprocess: Postprocess | None = None,
        *,
        freeze_patterns: Sequence[str] = (),
        norms_of_frozen: Literal["fixed", "updated"] = "fixed",
    ):
        super().__init__(model, recipe, freeze_patterns=freeze_patterns, norms_of_frozen=norms_of_frozen)
        self.postprocess = postprocess or Postprocess()
        self.scores: DetectionScores | None = None
        self.evaluator: CocoEvaluator | None = None

    def check_data(self, samples: Any) -> None:
        """Stop where labels would mean other classes than the model has.

        Raises:
            ConfigError: the data has more or fewer.
        """
        if not isinstance(samples, DetectionSamples):
            return
        source = samples.source
        if len(source.classes) != len(self.model.classes):
            raise ConfigError(
                f"the data has {len(source.classes)} classes, the model {len(self.model.classes)}",
                where=str(source.annotations),
                hint="create_detector(..., classes=data.classes), or DetectionData(..., classes=model.classes)",
            )

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = detection_loss(self.model(batch.images), batch.boxes, batch.labels, sum_over_processes)
        self.means.add(_terms("train", loss), len(batch))
        return loss.total

    def on_validation_epoch_start(self) -> None:
        """Start a new collection."""
        self.evaluator = CocoEvaluator(self._truth(self.trainer.val_dataloaders), self.postprocess.max_detections)

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Log the loss and collect the detections of a batch."""
        raw = self.model(batch.images)
        terms = _terms("val", detection_loss(raw, batch.boxes, batch.labels))
        self.log_dict(terms, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)
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

    def _truth(self, loader: Any) -> DetectionSet:
        samples = loader.dataset
        assert isinstance(samples, DetectionSamples), "evaluation needs the data loaders of DetectionData"
        self.check_data(samples)
        return samples.source


def _terms(stage: str, loss: DetectionLoss) -> dict[str, Tensor]:
    return {f"{stage}/loss": loss.total, f"{stage}/class_loss": loss.classification, f"{stage}/box_loss": loss.box}
