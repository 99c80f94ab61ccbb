"""Curves of a run and of an evaluation, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from densenet_suite.detection.metric import DetectionScores

_SHOWN_CLASSES = 10


def plot_curves(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw losses and scores over the epochs of metrics.csv."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for key, title in (("train/loss", "train"), ("val/loss", "val")):
        epochs, values = _column(rows, key)
        if values:
            losses.plot(epochs, values, marker=".", label=title)
    losses.set(title="loss", xlabel="epoch")
    if losses.lines:
        losses.set_ylim(0, 1.5 * max(np.percentile(line.get_ydata(), 90) for line in losses.lines))
        losses.legend()
    for key, title in (("val/AP", "AP"), ("val/AP50", "AP50"), ("val/AP75", "AP75")):
        epochs, values = _column(rows, key)
        if values:
            scores.plot(epochs, [100 * max(0.0, value) for value in values], marker=".", label=title)
    scores.set(title="score on val, %", xlabel="epoch", ylim=(0, None))
    if scores.lines:
        scores.legend()
    _finish(figure, path)


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
    _finish(figure, path)


def _column(rows: Sequence[Mapping[str, str]], key: str) -> tuple[list[int], list[float]]:
    pairs = [(int(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _finish(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    options: dict[str, Any] = {"dpi": 110}
    figure.savefig(path, **options)
