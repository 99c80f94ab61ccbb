"""The outcomes of comparisons as a table, as JSON lines, and beside those of an earlier run."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import Comparison, Measured, Outcome, Skipped, Unequal, compare, missing

PACKAGES = (
    "densenet-suite",
    "torch",
    "torchvision",
    "effdet",
    "timm",
    "segmentation-models-pytorch",
    "torchmetrics",
    "pycocotools",
    "hotcoco",
    "onnxruntime",
    "openvino",
    "lightning",
    "pillow",
    "opencv-python-headless",
)
NOT_OPTIONS = ("only", "rounds", "json", "against")  # which do not change what is measured
Parts = Mapping[str, Callable[[argparse.Namespace], Iterable[Comparison]]]
Row = dict[str, Any]


def report(command: str, parts: Parts, options: argparse.Namespace) -> bool:
    """Measure the chosen parts and print them; return whether every answer was equal to ours."""
    settings = {"command": command, "options": settings_of(options)}
    earlier = {key_of(row): row for row in read_rows(options.against)} if options.against else {}
    print(f"{'what':46} {'peer':40} {'ours ms':>9} {'peer ms':>9}   peer / ours: min / median / max", flush=True)
    rows, equal = [], True
    for outcome in outcomes(parts, options):
        equal = equal and not isinstance(outcome, Unequal)
        line = f"{outcome.name:46} {outcome.peer:40} "
        if isinstance(outcome, Measured):
            row = row_of(outcome) | settings
            rows.append(row)
            line += describe(row) + change(row, earlier)
        else:
            line += f"{'skipped' if isinstance(outcome, Skipped) else 'NOT EQUAL'}: {outcome.reason}"
        print(line, flush=True)
    write(rows, options.json)
    return equal


def outcomes(parts: Parts, options: argparse.Namespace) -> Iterator[Outcome]:
    """Run the comparisons of the chosen parts."""
    for name in options.only:
        try:
            for comparison in parts[name](options):
                yield from compare(comparison, options.rounds)
        except ImportError as error:
            yield Skipped(name, "", missing(error))
        except AssertionError as error:
            yield Unequal(name, "", " ".join(str(error).split()))


def settings_of(options: argparse.Namespace) -> Row:
    """Return what tells the rows of one run from those of another; options of several values only choose rows."""
    given = {
        name: value for name, value in vars(options).items() if name not in NOT_OPTIONS and not isinstance(value, list)
    }
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def row_of(outcome: Measured) -> Row:
    low, middle, high = outcome.values()
    figures = {"ours": dict(outcome.comparison.ours.figures), "peer": dict(outcome.side.figures)}
    row = {"part": outcome.name, "peer": outcome.peer, "unit": outcome.unit, "min": low, "median": middle, "max": high}
    return row | {"ours_s": outcome.ours_s, "peer_s": outcome.peer_s, "figures": figures}


def describe(row: Row) -> str:
    """Return the times, what they come to, and what else was counted of both sides."""
    times = [1e3 * median(row[side]) for side in ("ours_s", "peer_s")]
    digits = 3 if row["unit"] == "ms" else 2
    text = "{:9.2f} {:9.2f}   ".format(*times)
    text += " / ".join(f"{row[value]:.{digits}f}" for value in ("min", "median", "max"))
    text += " ms beyond" if row["unit"] == "ms" else ""
    ours, theirs = row["figures"]["ours"], row["figures"]["peer"]
    for name in (name for name in ours if name in theirs):
        share = f" ({ours[name] / theirs[name]:.2f} of it)" if theirs[name] else ""
        text += f"; {name} {ours[name]:.4g} against {theirs[name]:.4g}{share}"
    return text


def change(row: Row, earlier: Mapping[str, Row]) -> str:
    """Return what an earlier run found for the same row, and how far it moved."""
    before = earlier.get(key_of(row))
    if before is None:
        return "   [no earlier row]" if earlier else ""
    moved = row["median"] - before["median"]
    relative = f", {moved / before['median']:+.0%}" if row["unit"] == "x" else f", {moved:+.3f} ms"
    return f"   [was {before['median']:.2f}{relative}]"


def key_of(row: Row) -> str:
    """Return what rows of different runs have in common where they are of the same thing."""
    return json.dumps([row.get(name) for name in ("command", "part", "peer", "options")], sort_keys=True)


def read_rows(path: Path) -> Iterator[Row]:
    """Read what `--json` wrote; of equal rows the last counts."""
    for line in path.read_text().splitlines():
        if line.strip():
            yield json.loads(line)


def write(rows: Iterable[Row], path: Path | None) -> None:
    """Add the rows to a file, or print them."""
    machine = {"machine": platform.machine(), "cpu": processor(), "cpus": os.cpu_count(), "versions": versions()}
    lines = [json.dumps(row | machine) for row in rows]
    if path is None:
        print("\n" + "\n".join(lines))
        return
    with path.open("a") as file:
        file.writelines(line + "\n" for line in lines)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:
            continue
    return found


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
