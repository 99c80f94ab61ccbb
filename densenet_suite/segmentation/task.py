"""Segmentation as a Lightning module: model, loss, log; the arithmetic is in the parts."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from densenet_suite.collectives import sum_over_processes
from densenet_suite.errors import ConfigError
from densenet_suite.optim import Recipe
from densenet_suite.segmentation.loss import SegmentationLoss, segmentation_loss
from densenet_suite.segmentation.loss_terms import LossTerm
from densenet_suite.segmentation.metric import SegmentationMetric, SegmentationScores
from densenet_suite.segmentation.model import Segmenter
from densenet_suite.segmentation.samples import SegmentationSamples
from densenet_suite.segmentation.scenes import predict_image
from densenet_suite.segmentation.structures import SegmentationBatch
from densenet_suite.task import Task

DEFAULT_LOSS = (LossTerm("cross_entropy"), LossTerm("dice"))


class SegmentationTask(Task):
    """Trains and evaluates a segmenter.

    Args:
        model: from `create_segmenter`.
        recipe: how weights are updated.
        loss: the terms whose weighted sum is minimised.
        class_weights: [k] how much each class counts in the loss; None for all alike.
        tile: largest side that goes through the network in one piece in evaluation, in pixels as it sees them.
        overlap: of the tiles of larger images.
        scale: pixels of the network per pixel of the file, as in the data.
        boundary: also measure boundaries in evaluation, which takes longer.
        freeze_patterns: names of parameters that are not trained, as shell patterns.
        norms_of_frozen: whether batch norms that are wholly frozen keep their statistics ("fixed") or renew them.

    Attributes:
        scores: of the last evaluation.
        metric: with the counts of the last evaluation.
    """

    model: Segmenter
    class_weights: Tensor | None

    def __init__(
        self,
        model: Segmenter,
        recipe: Recipe | None = None,
        loss: Sequence[LossTerm] = DEFAULT_LOSS,
        class_weights: Tensor | None = None,
        *,
        tile: int = 1024,
        overlap: int = 256,
        scale: float = 1.0,
        boundary: bool = False,
        freeze_patterns: Sequence[str] = (),
        norms_of_frozen: Literal["fixed", "updated"] = "fixed",
    ):
        super().__init__(model, recipe, freeze_patterns=freeze_patterns, norms_of_frozen=norms_of_frozen)
        self.loss = tuple(loss)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.tile, self.overlap, self.scale = tile, overlap, scale
        self.boundary = boundary
        self.scores: SegmentationScores | None = None
        self.metric: SegmentationMetric | None = None

    def check_data(self, samples: Any) -> None:
        """Stop where masks would mean other classes than the model has.

        Raises:
            ConfigError: the data has others.
        """
        if isinstance(samples, SegmentationSamples) and samples.source.classes.names != self.model.classes.names:
            raise ConfigError(
                f"the data has the classes {', '.join(samples.source.classes.names)}; "
                f"the model {', '.join(self.model.classes.names)}",
                hint="create_segmenter(..., classes=data.classes), or SegmentationData(..., given=model.classes)",
            )

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self._loss(batch)
        self.means.add(_terms("train", loss), len(batch))
        return loss.total

    def on_validation_epoch_start(self) -> None:
        """Start a new count."""
        loaders: Any = self.trainer.val_dataloaders
        self.check_data(loaders.dataset)
        self.metric = SegmentationMetric(self.model.classes, boundary=self.boundary)

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Log the loss and count the pixels of a batch, all in pixels of the files."""
        assert self.metric is not None
        probabilities = self._probabilities(batch)
        logits = _logits(probabilities, multilabel=self.model.classes.multilabel)
        terms = _terms("val", segmentation_loss(logits, batch.masks, self.loss, self.class_weights))
        self.log_dict(terms, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)
        found = decide(probabilities, multilabel=self.model.classes.multilabel)
        for i, index in enumerate(batch.indices.tolist()):
            self.metric.update(index, found[i], batch.masks[i])

    def on_validation_epoch_end(self) -> None:
        """Score what was counted; a share that is not defined counts as -1 for whoever compares epochs."""
        assert self.metric is not None
        self.metric.gather()
        self.scores = self.metric.compute()
        for name, value in self.scores.summary.items():
            missing = math.inf if name == "HD95" else -1.0  # a distance: the smaller, the better
            self.log(f"val/{name}", missing if value is None else value, sync_dist=True)  # equal in all processes

    def _loss(self, batch: SegmentationBatch) -> SegmentationLoss:
        """Return the loss of the logits; under deep supervision each coarser level counts half of the one before.

        Reference: nnU-Net, arXiv:1809.10486, supplementary note 2.
        """
        if not self.model.spec.deep_supervision:
            return self._one_loss(self.model(batch.images), batch.masks)
        losses = [
            self._one_loss(logits, _coarsened(batch.masks, logits)) for logits in self.model.deep_logits(batch.images)
        ]
        weights = [0.5**i for i in range(len(losses))]
        weighted = [weight * loss.total for weight, loss in zip(weights, losses, strict=True)]
        total = torch.stack(weighted).sum() / sum(weights)
        return SegmentationLoss(total, losses[0].terms)

    def _one_loss(self, logits: Tensor, masks: Tensor) -> SegmentationLoss:
        return segmentation_loss(logits, masks, self.loss, self.class_weights, sum_over_processes)

    def _probabilities(self, batch: SegmentationBatch) -> Tensor:
        """Return probabilities in pixels of the files [b k h w]; what is larger than a tile goes through in tiles."""
        multilabel = self.model.classes.multilabel
        if max(batch.images.shape[-2:]) <= self.tile:
            logits = self.model(batch.images).float()
            found = logits.sigmoid() if multilabel else logits.softmax(1)
        else:
            found = torch.stack([self._tiled(image) for image in batch.images])
        size = batch.masks.shape[-2:]
        return found if found.shape[-2:] == size else F.interpolate(found, size, mode="bilinear", align_corners=False)

    def _tiled(self, image: Tensor) -> Tensor:
        pixels = image.permute(1, 2, 0).cpu().numpy()
        tile = (self.tile, self.tile)
        return predict_image(self.model, pixels, tile, self.overlap, device=self.device, batch=1).to(self.device)


def decide(probabilities: Float[Tensor, "b k h w"], *, multilabel: bool) -> UInt8[Tensor, "b *k h w"]:
    """Return the most likely class of each pixel, or for overlapping classes whether each is likelier than not."""
    return (probabilities >= 0.5 if multilabel else probabilities.argmax(1)).to(torch.uint8)


def _terms(stage: str, loss: SegmentationLoss) -> dict[str, Tensor]:
    return {f"{stage}/loss": loss.total} | {f"{stage}/{name}": value for name, value in loss.terms.items()}


def _logits(probabilities: Tensor, *, multilabel: bool) -> Tensor:
    """Return logits that have these probabilities."""
    bounded = probabilities.clamp(1e-7, 1 - 1e-7)
    return bounded.logit() if multilabel else bounded.log()


def _coarsened(masks: Tensor, logits: Tensor) -> Tensor:
    """Return the masks at the cells of coarser logits: the label in the middle of each."""
    if masks.shape[-2:] == logits.shape[-2:]:
        return masks
    step = 2 ** round(math.log2(masks.shape[-1] / logits.shape[-1]))
    rows, columns = (
        (torch.arange(cells, device=masks.device) * step + step // 2).clamp(max=side - 1)
        for cells, side in zip(logits.shape[-2:], masks.shape[-2:], strict=True)
    )
    return masks[..., rows[:, None], columns]
