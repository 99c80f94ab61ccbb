"""Pictures of what went into a network and of what came out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from PIL import Image

from densenet_suite.detection.datasets import DetectionSet, LabelledImage
from densenet_suite.detection.structures import IGNORE, ClassTable, DetectionBatch
from densenet_suite.detection.task import DetectionTask
from densenet_suite.drawing import contact_sheet, draw_boxes, enlarged
from densenet_suite.geometry import Letterbox, resize
from densenet_suite.images import read_pixels

Array = np.ndarray[Any, Any]
_SHOWN = 9
_PANEL = 480  # largest side of one picture in a sheet, in pixels


class TrainPictures(L.Callback):
    """Writes the first batch of a run as the network sees it, with its boxes, before anything is learned from it.

    Args:
        folder: where train_batch.jpg goes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw, once."""
        target = self.folder / "train_batch.jpg"
        if trainer.is_global_zero and not target.exists():
            assert isinstance(batch, DetectionBatch)
            assert isinstance(pl_module, DetectionTask)
            classes = pl_module.model.classes
            Image.fromarray(draw_batch(batch, classes)).save(target, quality=90)


def draw_batch(batch: DetectionBatch, classes: ClassTable) -> Array:
    """Draw up to nine images of a batch with their boxes."""
    pictures = []
    for i in range(min(_SHOWN, len(batch))):
        pixels = batch.images[i].cpu().numpy().transpose(1, 2, 0)
        pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
        keep = (batch.labels[i] != IGNORE).cpu().numpy()
        labels = batch.labels[i].cpu().numpy()[keep]
        texts = [classes.names[label] for label in labels]
        picture, boxes = enlarged(np.ascontiguousarray(pixels), batch.boxes[i].cpu().numpy()[keep], _PANEL // 2)
        pictures.append(draw_boxes(picture, boxes, labels.tolist(), texts))
    return contact_sheet(pictures, min(3, len(pictures)))


def draw_evaluation(dataset: DetectionSet, found: Sequence[tuple[int, Array]], threshold: float) -> Array:
    """Draw truth (left) beside detections (right) of six images, spread over the set.

    Args:
        dataset: the split.
        found: (index, [n 6] x, y, width, height, score, label) of each image.
        threshold: lowest score that is drawn.
    """
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, 6).round().astype(int))]
    pictures = []
    for index, rows in chosen:
        entry = dataset.images[index]
        pictures += [
            _truth(entry, dataset.classes),
            _detections(entry, rows[rows[:, 4] >= threshold], dataset.classes),
        ]
    return contact_sheet(pictures, 4)


def _truth(entry: LabelledImage, classes: ClassTable) -> Array:
    objects = entry.objects
    texts = [classes.names[label] for label in objects.labels]
    return _panel(entry, objects.boxes, objects.labels, texts, dashed=objects.crowd.tolist())


def _detections(entry: LabelledImage, rows: Array, classes: ClassTable) -> Array:
    boxes = rows[:, :4].copy()
    boxes[:, 2:] += boxes[:, :2]
    labels = rows[:, 5].astype(int)
    texts = [f"{classes.names[label]} {score:.2f}" for label, score in zip(labels, rows[:, 4], strict=True)]
    return _panel(entry, boxes, labels, texts)


def _panel(entry: LabelledImage, boxes: Array, labels: Array, texts: list[str], dashed: Sequence[bool] = ()) -> Array:
    pixels, _ = read_pixels(entry.path, 3)
    fit = Letterbox.fit((entry.height, entry.width), (_PANEL, _PANEL))
    return draw_boxes(resize(pixels, *fit.resized), fit.boxes(boxes), labels.tolist(), texts, dashed=dashed)
