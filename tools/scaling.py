"""Measure how our cost grows with images, batches, classes and objects: one thread, nothing beside it.

    python tools/scaling.py
    python tools/scaling.py --only size objects --rounds 9 --figure scaling.svg --json curves.jsonl

Times are CPU times of the process. The points of a curve are measured in turn, each round begins with another, and what
is kept of a round is its times relative to that of the first point: the median over the rounds is printed. The slope
is the exponent of the power law through the upper half of the points: 1 is a cost that grows as the thing itself does.
"""

import argparse
import json
import os
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch
from benchmarks.curves import PANELS
from benchmarks.measuring import cpu_seconds, measure
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from densenet_suite.report.figures import finish

COLOURS = {  # Okabe and Ito's
    "D0, prediction": "#0072B2",
    "D0, training step": "#E69F00",
    "U-Net B0, prediction": "#009E73",
    "U-Net B0, training step": "#CC79A7",
    "assignment and loss": "#56B4E9",
    "post-processing and COCO AP": "#D55E00",
}


class Curve(NamedTuple):
    """What was measured: the times of each round, relative to the first point."""

    panel: str
    name: str
    points: tuple[int, ...]
    amounts: tuple[int, ...]
    rounds: list[list[float]]

    def times(self) -> list[float]:
        """Return the median of each point."""
        return [statistics.median(of_point) for of_point in zip(*self.rounds, strict=True)]

    def slope(self) -> float:
        """Return the exponent of the power law through the upper half."""
        first = min(len(self.points) // 2, len(self.points) - 2)
        amounts, times = np.log(self.amounts[first:]), np.log(self.times()[first:])
        return float(np.polyfit(amounts, times, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PANELS, default=list(PANELS))
    parser.add_argument("--rounds", type=int, default=5, help="how often every point is measured")
    parser.add_argument("--figure", type=Path, help="SVG or PNG that is drawn")
    parser.add_argument("--json", type=Path, help="file to which the curves are added")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # torchvision's torch.jit.script
    curves = []
    print(f"{'grows':10} {'what':30} {'points':24} {'time, of the first point':30} slope", flush=True)
    for key in options.only:
        for name in PANELS[key].curves:
            curves.append(measure_curve(key, name, options.rounds))
            print(describe(curves[-1]), flush=True)
    if options.json:
        with options.json.open("a") as file:
            file.writelines(json.dumps(curve._asdict() | {"slope": curve.slope()}) + "\n" for curve in curves)
    if options.figure:
        draw(curves, options.figure)


def measure_curve(key: str, name: str, rounds: int) -> Curve:
    """Measure a curve of a panel."""
    panel = PANELS[key]
    works = [panel.curves[name](point) for point in panel.points]
    seconds = measure(works, rounds, cpu_seconds)
    relative = [[time / of_round[0] for time in of_round] for of_round in zip(*seconds, strict=True)]
    return Curve(key, name, panel.points, tuple(map(panel.amount, panel.points)), relative)


def describe(curve: Curve) -> str:
    """Return a line of the table."""
    points = " ".join(map(str, curve.points))
    times = " ".join(f"{time:.3g}" for time in curve.times())
    return f"{curve.panel:10} {curve.name:30} {points:24} {times:30} {curve.slope():5.2f}"


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw a panel for each thing that grows, with a dashed line for a cost that grows as it does, and one legend."""
    keys = list(dict.fromkeys(curve.panel for curve in curves))
    rows = len(keys) // 2 + 1  # of two cells, the last of which is the legend's
    figure = Figure(figsize=(8.4, 2.9 * rows), layout="constrained")
    cells = list(figure.subplots(rows, 2).flat)
    handles: dict[str, Artist] = {}
    for axes, key in zip(cells, keys, strict=False):
        panel, shown = PANELS[key], [curve for curve in curves if curve.panel == key]
        amounts = shown[0].amounts
        (line,) = axes.plot(amounts, [amount / amounts[0] for amount in amounts], "--", color="grey")
        handles["linear"] = line
        for curve in shown:
            (handles[curve.name],) = axes.plot(amounts, curve.times(), marker=".", color=COLOURS[curve.name])
        axes.set(xscale="log", yscale="log", xlabel=panel.label, ylabel="time, first point = 1")
        axes.set_xticks(amounts, [panel.written.format(point) for point in panel.points])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    for axes in cells[len(keys) :]:
        axes.set_axis_off()
    cells[-1].legend(handles.values(), handles, loc="center")
    finish(figure, path)


if __name__ == "__main__":
    main()
