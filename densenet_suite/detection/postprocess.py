"""Raw detections to final ones: thresholds, non-maximum suppression per class, a limit.

The score threshold comes first and the candidates are the best of what passes it, so any number of anchors works and a
high threshold makes everything after it cheap. Of equal logits the one of the lower anchor, then of the lower class,
comes first, on any device. Two shortcuts change nothing in the result: pairs are only looked at for the anchors whose
best class is among the best, and suppression begins with the best few hundred pairs, as those below cannot undo what is
decided above them. Reference for soft suppression: Bodla et al., Soft-NMS,
arXiv:1704.04503, equation 3.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import nms

from densenet_suite.detection.boxes import box_iou, clip_boxes, decode_boxes
from densenet_suite.detection.structures import Detections, RawDetections

_FIRST_SUPPRESSED = 512  # of ordinary pictures these leave a hundred detections
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes


@dataclass(frozen=True)
class Postprocess:
    """How detections are chosen.

    Attributes:
        score_threshold: lowest score of a candidate; COCO evaluation wants 0.001, people 0.3 and more.
        nms: "hard" drops what overlaps a better box of its class by more than `iou_threshold`; "soft" lowers its score
            by exp(-iou^2 / sigma) instead, and drops it when it falls below the threshold.
        iou_threshold: see "hard".
        sigma: see "soft".
        max_detections: per image.
        max_candidates: the best so many pairs of anchor and class enter the suppression.
    """

    score_threshold: float = 0.001
    nms: Literal["hard", "soft"] = "hard"
    iou_threshold: float = 0.5
    sigma: float = 0.5
    max_detections: int = 100
    max_candidates: int = 5000

    def __call__(self, raw: RawDetections, sizes: Float[Tensor, "b 2"] | None = None) -> list[Detections]:
        """Return the detections of each image, best first, in pixels of the network's input.

        Args:
            raw: the network's output.
            sizes: (height, width) of the picture inside each padded input; boxes are cut off there, and those of which
                nothing is left are dropped.
        """
        results = []
        for i in range(len(raw.class_logits)):
            candidates = self._candidates(raw, i)
            candidates = _numbers(candidates) if sizes is None else _inside(candidates, *sizes[i].tolist())
            choose = self._suppress if self.nms == "hard" else self._decay
            results.append(choose(candidates))
        return results

    def _candidates(self, raw: RawDetections, image: int) -> Detections:
        logits = raw.class_logits[image]
        threshold = torch.logit(torch.tensor(self.score_threshold, dtype=torch.float64)).item()
        best = _maxima(logits).float()
        passing = (best > threshold).nonzero()[:, 0]
        # a pair that is among the best has an anchor that is: every better anchor has a better pair
        anchors = passing[_largest(best[passing], self.max_candidates)]
        values = logits[anchors].float().flatten()
        if len(anchors) == self.max_candidates:  # then there are as many pairs from the worst of these on
            passing = (values >= best[anchors].min()).nonzero()[:, 0]
        else:
            passing = (values > threshold).nonzero()[:, 0]
        pairs = passing[_largest(values[passing], self.max_candidates)]
        values, order = values[pairs].sort(descending=True, stable=True)
        pairs = pairs[order]
        classes = logits.shape[1]
        anchor = anchors[pairs // classes]
        boxes = decode_boxes(raw.box_deltas[image, anchor], raw.anchors[anchor])
        # in place of one sigmoid, vectors of numbers and those left over have two, which differ in the last bit
        return Detections(boxes, values.sigmoid().cummin(0).values, pairs % classes)

    def _suppress(self, candidates: Detections) -> Detections:
        scores = candidates.scores.double()
        boxes = separate_classes(candidates.boxes, candidates.labels)
        count = _FIRST_SUPPRESSED
        keep = nms(boxes[:count], scores[:count], self.iou_threshold)
        while len(keep) < self.max_detections and count < len(scores):
            count *= 4
            keep = nms(boxes[:count], scores[:count], self.iou_threshold)
        keep = keep[: self.max_detections]
        return Detections(candidates.boxes[keep], candidates.scores[keep], candidates.labels[keep])

    def _decay(self, candidates: Detections) -> Detections:
        boxes, labels = candidates.boxes, candidates.labels
        scores = candidates.scores.clone()
        chosen, final = [], []
        for _ in range(min(self.max_detections, len(scores))):
            best = scores.argmax()
            score = scores[best]
            if score <= self.score_threshold:
                break
            chosen.append(best)
            final.append(score.clone())
            overlap = box_iou(boxes[best][None], boxes)[0]
            scores *= torch.where(labels == labels[best], torch.exp(-(overlap**2) / self.sigma), 1.0)
            scores[best] = -1.0
        if not chosen:
            return Detections(boxes[:0], scores[:0], labels[:0])
        index = torch.stack(chosen)
        return Detections(boxes[index], torch.stack(final), labels[index])


def _maxima(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Return the maximum of each row, by comparing bits as integers: CPUs are up to twice as fast, as none can be nan.

    They are in the order of the floats, but for negative ones, whose order they reverse.
    """
    bits = logits.view(_INTEGERS[logits.itemsize])
    most = bits.amax(1)
    return torch.where(most < 0, bits.amin(1), most).view(logits.dtype)


def _largest(values: Float[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
    """Return where the largest values are, in order of place; of equal ones the first."""
    if len(values) <= count:
        return torch.arange(len(values), device=values.device)
    limit = values.topk(count, sorted=False).values.min()
    above = (values > limit).nonzero()[:, 0]
    equal = (values == limit).nonzero()[: count - len(above), 0]
    return torch.cat([above, equal]).sort().values


def _numbers(candidates: Detections) -> Detections:
    """Return the candidates without those of a network that says nan, of which one would undo all suppression."""
    sound = candidates.boxes.isfinite().all(1)
    return Detections(candidates.boxes[sound], candidates.scores[sound], candidates.labels[sound])


def _inside(candidates: Detections, height: float, width: float) -> Detections:
    boxes = clip_boxes(candidates.boxes, height, width)
    left = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Detections(boxes[left], candidates.scores[left], candidates.labels[left])


def separate_classes(boxes: Float[Tensor, "n 4"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n 4"]:
    """Move the boxes of each class to a place of its own, so that one suppression serves all classes.

    In double precision: in single, the shift rounds boxes of large scenes by whole pixels.
    """
    boxes = boxes.double()
    if len(boxes) == 0:
        return boxes
    extent = boxes.max() - boxes.min() + 1
    return boxes + (labels * extent)[:, None]
