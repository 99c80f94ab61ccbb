"""Pairs of two ways to one answer, measured in turn in one process, on one thread."""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

SHORTEST = 0.05  # seconds; what is quicker is called several times for one measurement
PACKAGES = ("densenet-suite", "torch", "torchvision", "effdet", "timm", "pillow", "opencv-python-headless")


@dataclass(frozen=True)
class Pair:
    """Two ways to one answer; `check` raises AssertionError where the answers differ. A call makes so many `items`."""

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    check: Callable[[], None]
    items: int = 1


def measure_all(
    parts: Mapping[str, Callable[[argparse.Namespace], Iterable[Pair]]], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], bool]:
    """Print the table; return its rows, and whether all answers agree."""
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in ("only", "json")
    }
    machine = {"machine": platform.machine(), "cpu": processor(), "cpus": os.cpu_count(), "versions": versions()}
    print(f"{'part':12} {'peer':46} {'ours ms':>8} {'peer ms':>8}   ratio: min / median / max")
    rows, agree = [], True
    for name in options.only:
        try:
            for pair in parts[name](options):
                pair.check()
                ours, theirs = ([t / pair.items for t in times] for times in measure(pair, options.rounds))
                ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
                low, median, high = ratios[0], statistics.median(ratios), ratios[-1]
                milliseconds = [1e3 * statistics.median(times) for times in (ours, theirs)]
                print(f"{pair.name:12} {pair.peer:46}", "{:8.2f} {:8.2f}".format(*milliseconds), end="   ")
                print(f"{low:.2f} / {median:.2f} / {high:.2f}", flush=True)
                row = {"part": pair.name, "peer": pair.peer, "min": low, "median": median, "max": high}
                rows.append(row | {"ours_s": ours, "peer_s": theirs} | settings | machine)
        except ImportError as error:
            print(f"{name:12} skipped: {error}")
        except AssertionError as error:
            agree = False
            print(f"{name:12} NOT EQUAL: {error}")
    return rows, agree


def measure(pair: Pair, rounds: int) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of a call, for each round and side; every round begins with the other side."""
    sides = (pair.ours, pair.theirs)
    calls = [max(1, round(SHORTEST / seconds_of(side, 1))) for side in sides]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            times[side].append(seconds_of(sides[side], calls[side]))
    return times


def seconds_of(function: Callable[[], Any], calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        function()
    return max(time.process_time() - started, 1e-9) / calls


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
