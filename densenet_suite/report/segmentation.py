"""What an evaluation of a segmenter leaves behind: tables, the confusion of classes, and pictures."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from densenet_suite.drawing import contact_sheet, displayable, draw_mask
from densenet_suite.files import write_text
from densenet_suite.geometry import Letterbox, resize
from densenet_suite.report.figures import finish
from densenet_suite.report.task_report import PANEL, SHOWN, TaskReport
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.metric import SegmentationScores
from densenet_suite.segmentation.reading import read_scene
from densenet_suite.segmentation.scenes import predict_image
from densenet_suite.segmentation.structures import MaskClasses, SegmentationBatch
from densenet_suite.segmentation.task import SegmentationTask, decide

Array = np.ndarray[Any, Any]
_COLUMNS = ("IoU", "Dice", "precision", "recall", "boundary_IoU", "HD95")
_NAMED_CELLS = 25  # classes of a confusion matrix that are written into its cells


def write_evaluation(folder: Path, task: SegmentationTask, data: SegmentationSet) -> None:
    """Write scores, confusions and pictures of an evaluation into its folder."""
    scores = task.scores
    assert scores is not None
    write_text(folder / "per_class.csv", _table(scores))
    if scores.confusion is not None:
        names = data.classes.names
        write_text(folder / "confusion.csv", _confusion_table(scores.confusion, names))
        plot_confusion(scores.confusion, names, folder / "confusion.png")
    Image.fromarray(draw_evaluation(data, task)).save(folder / "truth_and_masks.jpg", quality=90)


def plot_confusion(confusion: Array, names: tuple[str, ...], path: Path) -> None:
    """Draw what the pixels of each class (row) were found as (column), in percent of the class."""
    side = min(14.0, 2.5 + 0.45 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(title="found as, % of each class", xticks=range(len(names)), yticks=range(len(names)))
    axes.set_xticklabels(names, rotation=45, ha="right")
    axes.set_yticklabels(names)
    if len(names) <= _NAMED_CELLS:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 60 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize="small")
    finish(figure, path, grid=False)


def draw_batch(batch: SegmentationBatch, classes: MaskClasses) -> Array:
    """Draw up to nine images of a batch, each with its mask over it beside it."""
    pictures = []
    for i in range(min(SHOWN, len(batch))):
        pixels = displayable(batch.images[i].cpu().numpy().transpose(1, 2, 0))
        pictures += [pixels, _overlaid(pixels, batch.masks[i].cpu().numpy(), classes)]
    return contact_sheet(pictures, min(6, len(pictures)))


def draw_evaluation(dataset: SegmentationSet, task: SegmentationTask) -> Array:
    """Draw picture, truth and found classes of six images, spread over the set."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, 6).round().astype(int))
    model, classes = task.model, dataset.classes
    pictures = []
    for index in chosen:
        pixels, truth = read_scene(dataset.scenes[index], model.backbone.in_channels)
        probabilities = predict_image(
            model, pixels, tile=(task.tile, task.tile), overlap=task.overlap, scale=task.scale, device=task.device
        )
        found = decide(probabilities[None], multilabel=classes.multilabel)[0].cpu().numpy()
        shown = displayable(pixels)
        for picture in (shown, _overlaid(shown, truth, classes), _overlaid(shown, found, classes)):
            fit = Letterbox.fit((picture.shape[0], picture.shape[1]), (PANEL, PANEL))
            pictures.append(resize(picture, *fit.resized))
    return contact_sheet(pictures, 6 if len(chosen) > 1 else 3)


def _overlaid(picture: Array, mask: Array, classes: MaskClasses) -> Array:
    return draw_mask(picture, mask, classes.colours, classes.names)


def _table(scores: SegmentationScores) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [name for name in _COLUMNS if any(name in values for values in scores.per_class.values())]
    writer.writerow(["class", "pixels", "images", *columns])
    for name, values in scores.per_class.items():
        writer.writerow([name, values["support"], values["images"], *(values[column] for column in columns)])
    return text.getvalue()


def _confusion_table(confusion: Array, names: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["truth \\ found", *names])
    for name, row in zip(names, confusion.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()


def _first_batch(batch: SegmentationBatch, task: SegmentationTask) -> Array:
    return draw_batch(batch, task.model.classes)


SEGMENTATION_REPORT = TaskReport(
    write=write_evaluation,
    draw_batch=_first_batch,
    shown=("mIoU", "mDice", "boundary_IoU"),
    columns=("pixels", "IoU", "Dice", "precision", "recall"),
    figures=(
        ("Picture, truth and found classes", "truth_and_masks.jpg"),
        ("Confusion of classes", "confusion.png"),
    ),
)
