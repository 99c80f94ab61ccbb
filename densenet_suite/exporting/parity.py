"""An exported file beside the network that it was made of: the same answers, or no file."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from densenet_suite.detection.boxes import clip_boxes
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import RawDetections
from densenet_suite.errors import SuiteError
from densenet_suite.exporting.inputs import ExportInputs
from densenet_suite.segmentation.model import Segmenter

# Of an output's largest value. Runtimes add up in another order, by which trained networks differ by 1e-5 or less, and
# anything wrong by far more.
TOLERANCE = 1e-3
# A network that meets pictures unlike those it knows may make much of a last digit. So much as it makes itself of a
# change of the pixels by a millionth, ten times over, is not held against a file.
_SHAKEN = 1e-6
_MARGIN = 10

Network = Callable[[Tensor], Mapping[str, Tensor]]


def check_answers(
    network: Network, model: EfficientDet | Segmenter, inputs: ExportInputs, outputs: Iterable[str]
) -> float:
    """Compare outputs of an exported network with its original's; return how far they are apart at most.

    Raises:
        SuiteError: further than the network's own rounding explains.
    """
    worst = 0.0
    for images in inputs.trials():
        expected, shaken = _answers(model, images), _answers(model, _shaken(images))
        found = network(images)
        for name in outputs:
            distance = _apart(expected[name], found[name])
            allowed = max(TOLERANCE, _MARGIN * _apart(expected[name], shaken[name]))
            if not distance <= allowed:
                raise SuiteError(
                    f"the exported network answers differently: {name} of {_size(images)} are {distance:.1g} of their "
                    f"largest value apart, and {allowed:.1g} is allowed; no file was written",
                    hint="please report it, with the output of densenet-suite doctor",
                )
            worst = max(worst, distance)
    return worst


def check_detections(network: Network, inputs: ExportInputs, postprocess: Postprocess) -> None:
    """Compare the choice of detections in an exported network with `Postprocess`, from the network's own candidates.

    Raises:
        SuiteError: they differ.
    """
    for images in inputs.trials():
        found = network(images)
        for i in range(len(images)):
            expected = _chosen(found["logits"][i], found["candidates"][i], postprocess)
            count = int(found["counts"][i])
            beyond = [float(found["scores"][i, count:].abs().sum()), float((found["labels"][i, count:] + 1).sum())]
            same = (
                count == len(expected[0])
                and _apart(expected[0], found["boxes"][i, :count]) <= TOLERANCE
                and _apart(expected[1], found["scores"][i, :count]) <= TOLERANCE
                and torch.equal(expected[2], found["labels"][i, :count])
                and beyond == [0.0, 0.0]
            )
            if not same:
                raise SuiteError(
                    f"the exported network chooses other detections of {_size(images)} than Postprocess; "
                    "no file was written",
                    hint="please report it, with the output of densenet-suite doctor",
                )


@torch.no_grad()
def _answers(model: EfficientDet | Segmenter, images: Tensor) -> dict[str, Tensor]:
    if isinstance(model, EfficientDet):
        raw = model(images)
        boxes, logits = raw.boxes(), raw.class_logits
        candidates = clip_boxes(boxes, images.shape[-2], images.shape[-1])
        return {"boxes": boxes, "scores": logits.sigmoid(), "candidates": candidates, "logits": logits}
    logits = model(images)
    return {"probabilities": logits.sigmoid() if model.classes.multilabel else logits.softmax(1)}


def _shaken(images: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return images.float() * (1 + _SHAKEN * (2 * torch.rand(images.shape, generator=generator) - 1))


def _chosen(logits: Tensor, candidates: Tensor, postprocess: Postprocess) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels of the final detections of one image."""
    unmoved = RawDetections(logits[None], torch.zeros_like(candidates)[None], candidates)
    (detections,) = postprocess(unmoved, candidates.new_full((1, 2), torch.inf))
    return detections.boxes, detections.scores, detections.labels


def _apart(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference in units of the largest value; infinite where the shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))


def _size(images: Tensor) -> str:
    return f"{len(images)} images of {images.shape[-2]}x{images.shape[-1]}"
