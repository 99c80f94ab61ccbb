"""Figures of a dataset: sizes, objects, classes. The colours are Okabe and Ito's, which the colour-blind tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from densenet_suite.report.figures import finish

Array = np.ndarray[Any, Any]
_BLUE, _ORANGE, _GREEN, _PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
_COLOURS = {"train": _BLUE, "val": _ORANGE, "test": _GREEN}
_CLASSES = 40


def plot_sizes(sizes: Mapping[str, Array], path: Path) -> None:
    """Draw widths over heights of the images [n 2] (height, width) of each split, larger where there are more."""
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, found in sizes.items():
        different, counts = np.unique(found, axis=0, return_counts=True)
        area = 18 + 300 * counts / max(1, counts.max())
        axes.scatter(
            different[:, 1],
            different[:, 0],
            s=area,
            alpha=0.55,
            color=_COLOURS[name],
            edgecolors="black",
            linewidths=0.4,
            label=name,
        )
    axes.set(title="sizes of the images", xlabel="width, pixels", ylabel="height, pixels")
    axes.margins(0.15)
    legend = axes.legend()
    for handle in legend.legend_handles:
        handle.set_sizes([50])  # type: ignore[union-attr]
    finish(figure, path)


def plot_counts(counts: Mapping[str, Array], path: Path) -> None:
    """Draw how many objects the images of each split have."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    most = max((int(found.max(initial=0)) for found in counts.values()), default=0)
    edges = np.arange(most + 2) - 0.5 if most <= 40 else np.linspace(-0.5, most + 0.5, 41)
    for name, found in counts.items():
        axes.hist(found, edges, histtype="stepfilled", alpha=0.25, color=_COLOURS[name])
        axes.hist(found, edges, histtype="step", linewidth=1.8, color=_COLOURS[name], label=name)
    axes.set(title="objects in an image", xlabel="objects", ylabel="images")
    axes.legend()
    finish(figure, path)


def plot_sides(in_files: Array, to_network: Array, size: Sequence[int], path: Path) -> None:
    """Draw how large objects are (root of the area), in pixels of the files and of the network."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    both = np.concatenate([in_files, to_network])
    edges = np.geomspace(max(1.0, float(both.min(initial=1))), max(2.0, float(both.max(initial=2))), 31)
    for sides, colour, label in (
        (in_files, _BLUE, "in the files"),
        (to_network, _ORANGE, f"to the network, {size[1]}x{size[0]}"),
    ):
        axes.hist(sides, edges, histtype="step", linewidth=1.8, color=colour, label=label)
    axes.set(
        title="sizes of the objects to train on", xlabel="root of the area, pixels", ylabel="objects", xscale="log"
    )
    ticks = [
        side for side in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if edges[0] <= side <= edges[-1]
    ]
    axes.set_xticks(ticks, [str(side) for side in ticks])
    axes.minorticks_off()
    axes.legend()
    finish(figure, path)


def plot_classes(names: Sequence[str], counts: Mapping[str, Array], what: str, path: Path) -> None:
    """Draw the counts of each class in each split, the most frequent on top; of many classes, the first 40."""
    total = sum(counts.values(), np.zeros(len(names)))
    order = np.argsort(-total, kind="stable")[:_CLASSES][::-1]
    figure = Figure(figsize=(6.4, 1.4 + 0.27 * len(order)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / max(1, len(counts))
    for i, (name, found) in enumerate(counts.items()):
        places = np.arange(len(order)) + height * ((len(counts) - 1) / 2 - i)
        axes.barh(places, np.asarray(found)[order], height, color=_COLOURS[name], label=name)
    axes.set_yticks(np.arange(len(order)), [names[i] for i in order])
    axes.set(title=f"{what} of each class", xlabel=what, ylim=(-0.6, len(order) - 0.4))
    if total.max(initial=0) > 100 * max(1.0, float(np.median(total))):
        axes.set_xscale("symlog", linthresh=1)
    axes.legend(loc="lower right")
    finish(figure, path)
