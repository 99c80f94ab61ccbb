"""The training loss: a weighted sum of terms over the valid pixels of a batch.

Each term is computed in float32 with autocast off, on the softmax where classes exclude each other and on the sigmoid
of each class where they overlap. Pixels of 255 have no part in it; where nothing is valid it is 0 with a graph.
`cross_entropy` and `focal` are means over pixels; the other terms have a value for each class, from sums over the whole
batch, and are means over the classes. Class weights weigh both kinds of mean, which are divided by the sum of weights,
as in torch.

- cross_entropy: of the softmax, or binary (BCE) for each class that may overlap.
- focal: the same times (1 - p)^gamma, p the probability of the truth. Lin et al., arXiv:1708.02002, equation 4.
- tversky: 1 - (hits + s) / (hits + alpha false alarms + beta misses + s), s half a pixel. Salehi et al.,
  arXiv:1706.05721, section 2. Of classes that exclude each other those count that the batch has: a false alarm of an
  absent one is a miss of another, and a term of its own would teach rare classes, in every batch without them, to be
  silent. Where classes may overlap all count, and smoothing on both sides makes a false alarm of an absent one cost.
- dice: tversky with both costs 1/2, so 1 - (2 hits + 1) / (found + truth + 1). Milletari et al., arXiv:1606.04797,
  section 3, without the squares.
- lovasz: the Lovasz extension of the Jaccard loss, over the classes that are present. Berman et al., arXiv:1705.08790,
  equations 8 to 12. A class that may overlap is a softmax of two, the class and its absence, so that false alarms cost
  where it is absent.
- boundary: mean of p times the signed distance to the outline, over the image's diagonal: from -1 to 1. Kervadec et
  al., arXiv:1812.07032, equation 5. Where a class is absent the distance is 1, so that false alarms cost; in the
  original it is 0. Distances are computed on the CPU. Meant to be added to a term over regions.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from densenet_suite.collectives import Combine, alone
from densenet_suite.segmentation.boundary import diagonal, signed_distance
from densenet_suite.segmentation.loss_terms import LossTerm, check_terms
from densenet_suite.segmentation.structures import IGNORE


class SegmentationLoss(NamedTuple):
    """`total` = the sum of weight times term; `terms` are without their weights."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def segmentation_loss(
    logits: Float[Tensor, "b k h w"],
    masks: UInt8[Tensor, "b2 *k2 h2 w2"],
    terms: Sequence[LossTerm],
    class_weights: Float[Tensor, " k"] | None = None,
    combine: Combine = alone,
) -> SegmentationLoss:
    """Compute the loss of a batch.

    Args:
        logits: the network's output, of any float type.
        masks: [b h w] of 0..k-1 where classes exclude each other, or [b k h w] of 0 and 1; 255 where not known.
        terms: what to add up.
        class_weights: what each class counts; all the same if not given.
        combine: makes the sums of a batch those of the global batch: `collectives.sum_over_processes`, or `alone`. Of
            lovasz, which is no function of sums, the processes have the mean.

    Raises:
        ConfigError: see `check_terms`.
        ValueError: masks and logits differ in shape, or a mask holds a value that is no class. Values are looked at on
            the CPU only: on a device it would make each step wait, and `MaskCodec` has made sure of them.
    """
    check_terms(terms)
    _check_masks(logits, masks)
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        weights = logits.new_ones(logits.shape[1]) if class_weights is None else class_weights.to(logits)
        pixels = _Pixels(logits, masks, weights, combine)
        values = {term.name: _TERMS[term.name](pixels, term) for term in terms}
        total = torch.stack([term.weight * values[term.name] for term in terms]).sum()
    return SegmentationLoss(total, values)


def _check_masks(logits: Tensor, masks: Tensor) -> None:
    classes = logits.shape[1]
    expected = logits.shape if masks.ndim == 4 else (len(logits), *logits.shape[2:])
    if masks.shape != torch.Size(expected):
        raise ValueError(
            f"masks {tuple(masks.shape)} do not fit logits {tuple(logits.shape)}: "
            f"they are [b h w] of classes, or [b k h w] where classes overlap"
        )
    if masks.device.type != "cpu":
        return
    highest = 1 if masks.ndim == 4 else classes - 1
    wrong = masks[(masks > highest) & (masks != IGNORE)]
    if len(wrong):
        raise ValueError(
            f"a mask holds {int(wrong[0])} in {len(wrong)} pixels: its values are 0 to {highest} here, "
            f"and {IGNORE} where a pixel is not to be learned"
        )


class _Pixels:
    """A batch in one form for exclusive and overlapping classes; what several terms need is computed once.

    The axis j is 1 where one answer holds for all classes (exclusive), or k.
    """

    def __init__(
        self,
        logits: Float[Tensor, "b k h w"],
        masks: UInt8[Tensor, "b *k h w"],
        weights: Float[Tensor, " k"],
        combine: Combine,
    ):
        self.overlapping = masks.ndim == 4
        self.masks = masks if self.overlapping else masks[:, None]
        self.valid: Bool[Tensor, "b j h w"] = self.masks != IGNORE
        self.logits = logits.masked_fill(~self.valid, 0.0)  # not even an infinite one counts where nothing is known
        self.weights = weights
        self.combine = combine

    @cached_property
    def log_softmax(self) -> Float[Tensor, "b k h w"]:
        return self.logits.log_softmax(1)

    @cached_property
    def probabilities(self) -> Float[Tensor, "b k h w"]:
        """0 where not valid."""
        probabilities = self.logits.sigmoid() if self.overlapping else self.log_softmax.exp()
        return probabilities.masked_fill(~self.valid, 0.0)

    @cached_property
    def log_likelihood(self) -> Float[Tensor, "b j h w"]:
        """The logarithm of the probability of the truth."""
        if self.overlapping:
            return F.logsigmoid(torch.where(self.present, self.logits, -self.logits))
        return self.log_softmax.gather(1, self._classes)

    @cached_property
    def present(self) -> Bool[Tensor, "b k h w"]:
        """Where each class is, by the truth."""
        if self.overlapping:
            return self.masks == 1
        return self.masks == torch.arange(len(self.weights), device=self.masks.device)[:, None, None]

    @cached_property
    def _classes(self) -> Tensor:
        return self.masks.masked_fill(~self.valid, 0).long()

    def mean_of_pixels(self, values: Float[Tensor, "b j h w"]) -> Float[Tensor, ""]:
        """Average over valid pixels, each with the weight of its class."""
        weights = self.weights[:, None, None] if self.overlapping else self.weights[self._classes]
        weights = weights * self.valid
        return _quotient(self.combine((values * weights).sum()), self.combine(weights.sum()))

    def mean_of_classes(self, values: Float[Tensor, " k"]) -> Float[Tensor, ""]:
        """Average over the classes that count, each with its weight.

        Those are the classes that the batch has, or, where classes may overlap, that it has known pixels of.
        """
        return _weighted_mean(values, self.weights * ((self.known if self.overlapping else self.truth) > 0))

    def sum_of_class(self, values: Shaped[Tensor, "b j h w"]) -> Float[Tensor, " j"]:
        return self.combine(values.sum(dim=(0, 2, 3)).float())

    @cached_property
    def truth(self) -> Float[Tensor, " k"]:
        """Pixels of each class."""
        return self.sum_of_class(self.present)

    @cached_property
    def known(self) -> Float[Tensor, " j"]:
        """Valid pixels."""
        return self.sum_of_class(self.valid)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return _quotient((values * weights).sum(), weights.sum())


def _quotient(total: Tensor, weight: Tensor) -> Tensor:
    return total / torch.where(weight > 0, weight, 1.0)


def _cross_entropy(pixels: _Pixels, term: LossTerm) -> Tensor:
    return pixels.mean_of_pixels(-pixels.log_likelihood)


def _focal(pixels: _Pixels, term: LossTerm) -> Tensor:
    log_likelihood = pixels.log_likelihood
    missing = (-torch.expm1(log_likelihood)).clamp(min=1e-12)  # a power below 1 has no gradient at 0
    return pixels.mean_of_pixels(-log_likelihood * missing**term.gamma)


def _dice(pixels: _Pixels, term: LossTerm) -> Tensor:
    return _overlap(pixels, 0.5, 0.5)


def _tversky(pixels: _Pixels, term: LossTerm) -> Tensor:
    return _overlap(pixels, term.alpha, term.beta)


def _overlap(pixels: _Pixels, false_alarm: float, miss: float) -> Tensor:
    smoothing = 0.5
    hits = pixels.sum_of_class(pixels.probabilities * pixels.present)
    false_alarms = pixels.sum_of_class(pixels.probabilities) - hits
    misses = pixels.truth - hits
    index = (hits + smoothing) / (hits + false_alarm * false_alarms + miss * misses + smoothing)
    return pixels.mean_of_classes(1 - index)


def _lovasz(pixels: _Pixels, term: LossTerm) -> Tensor:
    present, probabilities = (x.transpose(0, 1).flatten(1) for x in (pixels.present, pixels.probabilities))
    valid = pixels.valid.expand_as(pixels.present).transpose(0, 1).flatten(1)
    errors = torch.where(present, 1 - probabilities, probabilities).masked_fill(~valid, -1.0)  # they come last
    errors, order = errors.sort(dim=1, descending=True)
    valid, present = valid.gather(1, order), present.gather(1, order)
    errors = errors.clamp(min=0)
    losses = [(errors * _jaccard_steps(present)).sum(1)]
    exists = [present.any(1)]
    if pixels.overlapping:
        absent = ~present & valid
        losses.append((errors * _jaccard_steps(absent)).sum(1))
        exists.append(absent.any(1))
    value, counts = torch.stack(losses), torch.stack(exists)
    return _weighted_mean(value, pixels.weights * counts)


def _jaccard_steps(truth: Bool[Tensor, "k n"]) -> Float[Tensor, "k n"]:
    """Return by how much the Jaccard loss rises as pixels, one after the other, are found wrongly.

    The difference of two ratios near 1 would lose its digits in large images. A miss leaves the union U as it is and a
    false alarm the intersection I, so the steps are 1/U and I/U - I/(U+1).
    """
    seen = truth.cumsum(1)
    total = seen[:, -1:]
    others = torch.arange(1, truth.shape[1] + 1, device=truth.device) - seen
    union = torch.where(truth, total + others, total + others - 1).clamp(min=1).float()
    return torch.where(truth, 1 / union, (total - seen) / (union * (union + 1)))


def _boundary(pixels: _Pixels, term: LossTerm) -> Tensor:
    present = pixels.present.cpu().numpy()
    valid = pixels.valid.expand_as(pixels.present).cpu().numpy()
    size = diagonal(present[0, 0])
    maps = [
        torch.from_numpy(signed_distance(inside, known) / size)
        for inside, known in zip(
            present.reshape(-1, *present.shape[2:]), valid.reshape(-1, *valid.shape[2:]), strict=True
        )
    ]
    distances = torch.stack(maps).reshape(present.shape).to(pixels.logits.device)
    sums = pixels.sum_of_class(pixels.probabilities * distances)
    known = pixels.known
    return _weighted_mean(sums / known.clamp(min=1), pixels.weights * (known > 0))


_TERMS: dict[str, Callable[[_Pixels, LossTerm], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "dice": _dice,
    "tversky": _tversky,
    "lovasz": _lovasz,
    "boundary": _boundary,
}
