"""The terms of the loss in float64, class by class, by their definitions; SciPy has the distances."""

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from densenet_suite.segmentation.loss_terms import LossTerm
from densenet_suite.segmentation.structures import IGNORE


def reference_loss(term: LossTerm, logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    overlapping = masks.ndim == 4
    logits, weights = logits.double(), weights.double()
    if term.name in ("cross_entropy", "focal"):
        return _of_pixels(term, logits, masks, weights, overlapping)
    values, counting = [], []
    for c in range(logits.shape[1]):
        truth = masks[:, c] if overlapping else masks.where(masks == IGNORE, (masks == c).byte())
        known = truth != IGNORE
        probability = logits[:, c].sigmoid() if overlapping else logits.softmax(1)[:, c]
        sides = [(probability, truth == 1)]
        if overlapping and term.name == "lovasz":
            sides.append((1 - probability, truth == 0))
        for found, present in sides:
            values.append(_of_class(term, found, present, known))
            by_truth = term.name == "lovasz" or not (overlapping or term.name == "boundary")
            counting.append(weights[c] * (present if by_truth else known).any())
    return _mean(torch.stack(values), torch.stack(counting))


def _of_pixels(term: LossTerm, logits: Tensor, masks: Tensor, weights: Tensor, overlapping: bool) -> Tensor:
    known = masks != IGNORE
    if overlapping:
        sign = torch.where(masks == 1, 1.0, -1.0)
        certainty = F.logsigmoid(logits * sign)[known]
        weight = weights[:, None, None].expand_as(logits)[known]
    else:
        classes = masks.long().where(known, 0)
        certainty = logits.log_softmax(1).gather(1, classes[:, None])[:, 0][known]
        weight = weights[classes][known]
    gamma = term.gamma if term.name == "focal" else 0.0
    missing = (-torch.expm1(certainty)).clamp(min=1e-12)  # a power below 1 has no gradient at 0
    return _mean(-certainty * missing**gamma, weight)


def _of_class(term: LossTerm, found: Tensor, present: Tensor, known: Tensor) -> Tensor:
    if term.name == "lovasz":
        return _lovasz(found[known], present[known])
    if term.name == "boundary":
        total = sum((p[k] * _distance(t, k)).sum() for p, t, k in zip(found, present, known, strict=True))
        return total / max(1, int(known.sum()))
    alpha, beta = (0.5, 0.5) if term.name == "dice" else (term.alpha, term.beta)
    hits = found[present].sum()
    false_alarms, misses = found[known & ~present].sum(), (1 - found[present]).sum()
    return 1 - (hits + 0.5) / (hits + alpha * false_alarms + beta * misses + 0.5)


def _lovasz(found: Tensor, present: Tensor) -> Tensor:
    errors, order = torch.where(present, 1 - found, found).sort(descending=True)
    present = present[order]
    total, before, value = int(present.sum()), 0.0, found.sum() * 0
    hits, union = total, total
    for error, here in zip(errors, present.tolist(), strict=True):
        hits, union = (hits - 1, union) if here else (hits, union + 1)
        jaccard = 1 - hits / union
        value, before = value + error * (jaccard - before), jaccard
    return value


def _distance(inside: Tensor, known: Tensor) -> Tensor:
    """Return signed distances of the known pixels in units of the diagonal."""
    region, rest = (inside & known).numpy(), (~inside & known).numpy()
    size = float(np.hypot(*inside.shape))
    if not region.any() or not rest.any():
        return torch.full((int(known.sum()),), -1.0 if region.any() else 1.0, dtype=torch.float64)
    distance = np.where(region, 0.5 - distance_transform_edt(~rest), distance_transform_edt(~region) - 0.5)
    return torch.from_numpy(distance / size)[known]


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum() if weights.sum() > 0 else values.sum() * 0
