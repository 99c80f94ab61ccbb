"""Curves of a run, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def plot_curves(rows: Sequence[Mapping[str, str]], shown: Sequence[str], path: Path) -> None:
    """Draw losses, and the scores of these names, over the epochs of metrics.csv."""
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
    for title in shown:
        epochs, values = _column(rows, f"val/{title}")
        if values:
            scores.plot(epochs, [100 * max(0.0, value) for value in values], marker=".", label=title)
    scores.set(title="score on val, %", xlabel="epoch", ylim=(0, None))
    if scores.lines:
        scores.legend()
    finish(figure, path)


def _column(rows: Sequence[Mapping[str, str]], key: str) -> tuple[list[int], list[float]]:
    pairs = [(int(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def finish(figure: Figure, path: Path, *, grid: bool = True) -> None:
    """Write a figure, with a light grid."""
    for axes in figure.axes:
        if grid:
            axes.grid(alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    options: dict[str, Any] = {"dpi": 110}
    figure.savefig(path, **options)
