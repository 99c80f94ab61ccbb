"""What is done with ever larger images and batches, with more classes and with more objects, by our own networks alone.

A panel is what grows; its curves are the works that grow with it. Networks have random but live weights.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import Work
from benchmarks.models import CLASSES, calibrated, exactly, outputs_of_trained, pixels
from benchmarks.train import Step, our_optimizer
from densenet_suite import create_detector, create_segmenter
from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.loss import detection_loss
from densenet_suite.detection.metric import CocoEvaluator, DetectionScores
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import ClassTable, Detections, RawDetections
from densenet_suite.detection.variants import detector_spec
from densenet_suite.findings import Findings
from densenet_suite.fusing import fuse
from densenet_suite.segmentation.loss import segmentation_loss
from densenet_suite.segmentation.loss_terms import LossTerm
from densenet_suite.segmentation.model import Segmenter

os.environ["RAYON_NUM_THREADS"] = "1"  # of hotcoco, before it is imported
MODEL = "tf_efficientdet_d0"
BACKBONE = "tf_efficientnet_b0"
LOSS = (LossTerm("cross_entropy"), LossTerm("dice"))  # as a run has it
SIZE = 256  # of images, where it is not what grows
ANCHORED = 512  # of those whose objects are counted
OBJECTS = 8  # in an image, likewise


@dataclass(frozen=True)
class Panel:
    """What grows.

    Attributes:
        label: what its points are.
        points: where it is measured, ascending.
        curves: by name, what makes the work of a point.
        amount: of a point, beside which a linear cost is a straight line.
        written: how a point is written.
    """

    label: str
    points: tuple[int, ...]
    curves: dict[str, Callable[[int], Work]]
    amount: Callable[[int], int] = int
    written: str = "{}"


def predict(*, batch: int = 1, size: int = SIZE, classes: int = CLASSES) -> Work:
    """Return the detection in images: network and post-processing."""
    model, images = fuse(_detector(classes)), pixels(batch, size)
    postprocess = Postprocess()

    @torch.no_grad()
    def run() -> list[Detections]:
        return postprocess(model(images))

    return run


def train(*, batch: int = 1, size: int = SIZE, classes: int = CLASSES, count: int = OBJECTS) -> Work:
    """Return a training step of a detector; its learning rate is 0."""
    model, images = _detector(classes).to(memory_format=torch.channels_last).train(), pixels(batch, size)
    boxes, labels = exactly(count, batch, size, classes, torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        return detection_loss(model(images), boxes, labels).total

    return Step(model, loss, our_optimizer(model, batch), autocast=False, device="cpu")


def segment(size: int) -> Work:
    """Return the segmentation of an image."""
    model, images = fuse(_segmenter(2)), pixels(1, size)

    @torch.no_grad()
    def run() -> Tensor:
        return model(images)

    return run


def train_segmenter(classes: int) -> Work:
    """Return a training step of a segmenter; its learning rate is 0."""
    model, images = _segmenter(classes).to(memory_format=torch.channels_last).train(), pixels(1, SIZE)
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(classes, (1, SIZE, SIZE), generator=generator, dtype=torch.uint8)

    def loss() -> Tensor:
        return segmentation_loss(model(images), masks, LOSS).total

    return Step(model, loss, our_optimizer(model, 1), autocast=False, device="cpu")


def assign(count: int) -> Work:
    """Return the assignment of anchors and the loss with its gradient."""
    raw, boxes, labels = _scene(1, count)

    def run() -> Sequence[Tensor]:
        outputs = [output.detach().requires_grad_() for output in raw[:2]]
        total = detection_loss(RawDetections(*outputs, raw.anchors), boxes, labels).total
        return torch.autograd.grad(total, outputs)

    return run


def score(count: int) -> Work:
    """Return the post-processing of a few images, and their COCO scores."""
    raw, boxes, labels = _scene(4, count)
    truth = _as_truth(boxes, labels)
    postprocess = Postprocess()

    def run() -> DetectionScores:
        evaluator = CocoEvaluator(truth)
        for index, found in enumerate(postprocess(raw)):
            evaluator.update(index, found)
        return evaluator.compute()

    return run


def _detector(classes: int) -> EfficientDet:
    torch.manual_seed(0)
    model = create_detector(MODEL, num_classes=classes, weights=None, drop_path=0.0)
    model = calibrated(model, pixels(2, SIZE))
    with torch.no_grad():
        logits, deltas, _ = model(pixels(1, SIZE))
        for head, outputs, spread in ((model.class_head, logits, 0.5), (model.box_head, deltas, 0.2)):
            head.predict.pointwise.weight *= spread / outputs.std()
    return model


def _segmenter(classes: int) -> Segmenter:
    torch.manual_seed(0)
    model = create_segmenter("unet", classes, backbone=BACKBONE, weights=None, drop_path=0.0)
    return calibrated(model, pixels(2, SIZE))


def _scene(batch: int, count: int) -> tuple[RawDetections, Tensor, Tensor]:
    """Return what a trained detector says, and the boxes and labels of so many objects in each image."""
    spec = detector_spec(MODEL)
    sizes = [(ANCHORED // stride, ANCHORED // stride) for stride in spec.strides]
    anchors = anchor_boxes((ANCHORED, ANCHORED), sizes, spec.anchor_scale, spec.aspects)
    boxes, labels = exactly(count, batch, ANCHORED, CLASSES, torch.Generator().manual_seed(0))
    return outputs_of_trained(anchors, boxes, labels, CLASSES), boxes, labels


def _as_truth(boxes: Tensor, labels: Tensor) -> DetectionSet:
    images = []
    for index, (corners, names) in enumerate(zip(boxes.double().numpy(), labels.numpy(), strict=True)):
        none = (None,) * len(names)
        areas = (corners[:, 2:] - corners[:, :2]).prod(1)
        objects = Objects(corners, names, np.zeros(len(names), bool), areas, tuple(range(len(names))), none)
        images.append(LabelledImage(index, Path(f"{index}.jpg"), ANCHORED, ANCHORED, objects))
    classes = ClassTable.numbered([str(number) for number in range(CLASSES)])
    return DetectionSet("val", Path("val.json"), classes, tuple(images), Findings("val"))


PANELS = {
    "size": Panel(
        "square images, pixels",
        (256, 384, 512, 768, 1024),
        {
            "D0, prediction": lambda size: predict(size=size),
            "D0, training step": lambda size: train(size=size),
            "U-Net B0, prediction": segment,
        },
        amount=lambda size: size * size,
        written="{}²",
    ),
    "batch": Panel(
        "images in a batch",
        (1, 2, 4, 8),
        {
            "D0, prediction": lambda batch: predict(batch=batch),
            "D0, training step": lambda batch: train(batch=batch),
        },
    ),
    "classes": Panel(
        "classes",
        (1, 10, 90, 365, 1000),
        {
            "D0, prediction": lambda classes: predict(classes=classes),
            "D0, training step": lambda classes: train(classes=classes),
        },
    ),
    "masks": Panel(
        "classes of masks",
        (2, 8, 32, 128),
        {"U-Net B0, training step": train_segmenter},
    ),
    "objects": Panel(
        "objects in an image",
        (1, 10, 100, 300, 1000),
        {
            "D0, training step": lambda count: train(count=count),
            "assignment and loss": assign,
            "post-processing and COCO AP": score,
        },
    ),
}
