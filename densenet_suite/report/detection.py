"""What an evaluation of a detector leaves behind: tables, curves and pictures."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from densenet_suite.detection.datasets import DetectionSet, LabelledImage
from densenet_suite.detection.metric import CocoEvaluator, DetectionScores
from densenet_suite.detection.structures import IGNORE, ClassTable, DetectionBatch
from densenet_suite.detection.task import DetectionTask
from densenet_suite.drawing import contact_sheet, draw_boxes, enlarged
from densenet_suite.files import write_text
from densenet_suite.geometry import Letterbox, resize
from densenet_suite.images import read_pixels
from densenet_suite.report.figures import finish
from densenet_suite.report.task_report import PANEL, SHOWN, TaskReport

Array = np.ndarray[Any, Any]
_DRAWN_FROM = 0.4  # score
_SHOWN_CLASSES = 10


def write_evaluation(folder: Path, task: DetectionTask, data: DetectionSet) -> None:
    """Write scores, detections and pictures of an evaluation into its folder."""
    scores, evaluator = task.scores, task.evaluator
    assert scores is not None
    assert evaluator is not None
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", "objects", "AP", "AP50"])
    for name, values in scores.per_class.items():
        writer.writerow([name, values["objects"], values["AP"], values["AP50"]])
    write_text(folder / "per_class.csv", table.getvalue())
    write_text(folder / "predictions.coco.json", json.dumps(_results(evaluator)))
    plot_precision_recall(scores, folder / "pr.png")
    sheet = draw_evaluation(data, evaluator.detections(), _DRAWN_FROM)
    Image.fromarray(sheet).save(folder / "truth_and_detections.jpg", quality=90)


def _results(evaluator: CocoEvaluator) -> list[dict[str, Any]]:
    """Return COCO results with the file's own image and category ids."""
    truth = evaluator.truth
    return [
        {
            "image_id": truth.images[index].id,
            "category_id": truth.classes.ids[int(row[5])],
            "bbox": row[:4].tolist(),
            "score": float(row[4]),
        }
        for index, rows in evaluator.detections()
        for row in rows
    ]


def plot_precision_recall(scores: DetectionScores, path: Path) -> None:
    """Draw precision over recall at IoU 0.5, for all classes together and for those with the most objects."""
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, len(scores.precision))
    counts = {name: int(values["objects"] or 0) for name, values in scores.per_class.items()}
    present = [i for i, count in enumerate(counts.values()) if count]
    for i in sorted(present, key=lambda i: -list(counts.values())[i])[:_SHOWN_CLASSES]:
        name = list(counts)[i]
        axes.plot(recall, scores.precision[:, i], linewidth=1, label=f"{name} ({counts[name]})")
    if present:
        axes.plot(recall, scores.precision[:, present].mean(1), color="black", linewidth=2.2, label="mean")
        axes.legend(fontsize="small")
    axes.set(
        title="precision and recall at IoU 0.5",
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    finish(figure, path)


def draw_batch(batch: DetectionBatch, classes: ClassTable) -> Array:
    """Draw up to nine images of a batch with their boxes."""
    pictures = []
    for i in range(min(SHOWN, len(batch))):
        pixels = batch.images[i].cpu().numpy().transpose(1, 2, 0)
        pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
        keep = (batch.labels[i] != IGNORE).cpu().numpy()
        labels = batch.labels[i].cpu().numpy()[keep]
        texts = [classes.names[label] for label in labels]
        picture, boxes = enlarged(np.ascontiguousarray(pixels), batch.boxes[i].cpu().numpy()[keep], PANEL // 2)
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
    fit = Letterbox.fit((entry.height, entry.width), (PANEL, PANEL))
    return draw_boxes(resize(pixels, *fit.resized), fit.boxes(boxes), labels.tolist(), texts, dashed=dashed)


def _first_batch(batch: DetectionBatch, task: DetectionTask) -> Array:
    return draw_batch(batch, task.model.classes)


DETECTION_REPORT = TaskReport(
    write=write_evaluation,
    draw_batch=_first_batch,
    shown=("AP", "AP50", "AP75"),
    columns=("objects", "AP", "AP50"),
    figures=(
        ("Truth (left) and detections (right)", "truth_and_detections.jpg"),
        ("Precision and recall", "pr.png"),
    ),
)
