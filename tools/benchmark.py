"""Measure this package against its peers: all sides in turn in one process, on the same inputs, one thread.

    python tools/benchmark.py predict
    python tools/benchmark.py parts --only loss assignment --batch 8 --json rows.jsonl
    python tools/benchmark.py train --against rows.jsonl
    python tools/benchmark.py COMMAND --help

Every peer is checked first: one that gives another answer is reported as NOT EQUAL, without a ratio, and makes the exit
code 1. A peer that is not installed is skipped. A ratio is the peer's time over ours.

Times are CPU times of the process, for one call, sample or step. Absolute times waver with the neighbours of a shared
machine; a ratio does not, as each is one of a pair that ran within the same seconds. Every round begins with another.
Where a peer does more or less than is compared, the row says so.
"""

import argparse
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

COMMANDS = {
    "predict": ("predict", "a detector's forward pass and post-processing"),
    "train": ("train", "a training step: forward, loss, backward, optimizer; memory and operations"),
    "segment": ("segment", "a segmenter's forward pass"),
    "backbone": ("backbone", "a backbone's forward pass"),
    "parts": ("parts", "loss, assignment, post-processing, BiFPN and moving average, each alone"),
    "export": ("export", "exported models, in the best runtime of each side"),
    "data": ("data", "pictures on disk to batches of augmented samples, and the cache"),
    "eval": ("evaluation", "COCO evaluation and the confusion matrix"),
    "lightning": ("lightning", "our share in a training step beside a raw loop"),
    "import": ("imports", "what light verbs import, and how long they take to start"),
}


def main() -> None:
    table = "\n".join(f"  {name:10} {title}" for name, (_, title) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        usage="%(prog)s COMMAND [options]",
        description=__doc__,
        epilog=f"commands:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    command = import_module(f"benchmarks.{COMMANDS[chosen.command][0]}")
    options = parse(chosen.command, command, chosen.options)

    import torch
    from benchmarks.reporting import report

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # effdet's torch.jit.script
    sys.exit(0 if report(chosen.command, command.PARTS, options) else 1)


def parse(name: str, command: Any, arguments: list[str]) -> argparse.Namespace:
    """Read the options of a command: its own, and those of all."""
    parser = argparse.ArgumentParser(
        prog=f"benchmark.py {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=sorted(command.PARTS), default=list(command.PARTS))
    command.add_options(parser)
    parser.add_argument("--rounds", type=int, default=command.ROUNDS, help="how often every side is measured")
    parser.add_argument("--json", type=Path, help="file to which the rows are added; without it they are printed")
    parser.add_argument("--against", type=Path, help="file of an earlier run, whose ratios are printed beside")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
