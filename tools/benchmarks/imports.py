"""How long light verbs take, and how many modules they import, against importing a peer; each in a process of its own.

Times are CPU times of the children. A peer has no such verbs: importing it is the least that any use of it takes.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measuring import Comparison, Side, child_seconds

ROUNDS = 3
CONFIG = Path(__file__).parents[2] / "configs" / "detect_coco_d0.yaml"
_COUNT = "import sys, atexit; atexit.register(lambda: print(len(sys.modules), file=sys.stderr)); "
_PEERS = ("effdet", "segmentation_models_pytorch")


def add_options(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def comparisons(arguments: list[str], options: argparse.Namespace) -> Iterator[Comparison]:
    ours = child(f"sys.argv = {['densenet-suite', *arguments]!r}; from densenet_suite.cli import main; main()")
    peers = {f"import {module}": partial(peer, module) for module in _PEERS}
    yield Comparison(f"densenet-suite {' '.join(arguments[:2])}", ours, peers, seconds=child_seconds)


@cache
def peer(module: str) -> Side:
    if find_spec(module) is None:
        raise ImportError(f"No module named {module!r}", name=module)
    return child(f"import {module}")


def child(code: str) -> Side:
    """Return a process that runs code; it must end well."""

    def run() -> str:
        command = [sys.executable, "-W", "ignore", "-c", _COUNT + code]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{code}: {done.stderr.strip()}")
        return done.stderr

    return Side(run, figures={"modules": int(run().split()[-1])})


PARTS = {
    "help": partial(comparisons, ["--help"]),
    "models": partial(comparisons, ["models", "list"]),
    "validate": partial(comparisons, ["config", "validate", str(CONFIG), f"data.root={CONFIG.parent}"]),
}
