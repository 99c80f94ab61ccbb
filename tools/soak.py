"""Train for hours on data made here, and see that nothing grows: memory, open files, threads, processes, disk.

    python tools/soak.py detection --minutes 120
    python tools/soak.py segmentation --minutes 120 --journal segmentation.csv

Every epoch trains with one worker process, evaluates and writes checkpoints. What is in use is taken down at the end of
each, with what the workers use. The second tenth of the run is held against the last: memory may differ by a fiftieth,
the run folder by its lines for each epoch (metrics.csv, events of TensorBoard), the rest by nothing. The exit code is 1
where something has grown.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import lightning as L
import torch

from densenet_suite.config.load import config_from_values
from densenet_suite.synthetic import MASK_CLASSES, write_synthetic
from densenet_suite.training.fit import fit
from densenet_suite.training.run import Run

MEMORY_MAY_GROW = 0.02
LINE = 2000  # bytes that an epoch may add to its run folder: a row of metrics.csv, a line of the log, some events
NUMBERS = 4096  # bytes that numbers of more digits may add to the rest
GROWING = ("metrics.csv", "tensorboard", "log.txt")


class Usage(NamedTuple):
    """What the process and its children use."""

    seconds: float
    memory: int
    files: int
    threads: int
    processes: int
    kept: int  # bytes of the run folder, but for what has a line for each epoch
    lines: int  # bytes of that


class Meter(L.Callback):
    """Takes down what is in use at the end of every epoch, and ends the run when its time is over."""

    def __init__(self, run: Run, seconds: float, journal: Path | None):
        self.run, self.seconds, self.journal = run, seconds, journal
        self.began = time.monotonic()
        self.taken: list[Usage] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take it down."""
        self.taken.append(usage(self.run.dir, time.monotonic() - self.began))
        if self.journal is not None:
            with self.journal.open("a", newline="") as file:
                csv.writer(file).writerow(self.taken[-1])
        trainer.should_stop = trainer.should_stop or self.taken[-1].seconds > self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["detection", "segmentation"])
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--journal", type=Path, help="a CSV that takes a row for each epoch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        root = write_synthetic(Path(folder) / "data", {"train": 16, "val": 4}, size=(128, 128))
        config = config_from_values(values(options.task, root, Path(folder)), where="tools/soak.py")
        run = Run.create(config)
        meter = Meter(run, 60 * options.minutes, options.journal)
        fit(config, run, callbacks=[meter])
        print(f"{options.task}: {len(meter.taken)} epochs in {meter.taken[-1].seconds / 60:.0f} minutes")
        sys.exit(not is_flat(meter.taken))


def values(task: str, root: Path, folder: Path) -> dict[str, Any]:
    """Return the config of a small network on the generated data."""
    model = {"architecture": "efficientdet_d0"} if task == "detection" else {"backbone": "efficientnet_b0"}
    data = {"size": 128} if task == "detection" else {"crop": 64, "classes": MASK_CLASSES}
    return {
        "task": task,
        "name": "soak",
        "output": str(folder / "runs"),
        "model": model,
        "data": {"root": str(root), "workers": 1, **data},
        "train": {"epochs": 1_000_000, "batch": 4, "save_minutes": 0.05},
    }


def is_flat(taken: list[Usage]) -> bool:
    """Print the second tenth of a run beside its last, and say whether nothing has grown."""
    tenth = max(len(taken) // 10, 1)
    early, late = taken[tenth : 2 * tenth], taken[-tenth:]
    epochs = len(taken) - 2 * tenth
    allowed = {"memory": MEMORY_MAY_GROW * median(early, "memory"), "lines": LINE * epochs, "kept": NUMBERS}
    flat = True
    for name in Usage._fields[1:]:
        before, after = median(early, name), median(late, name)
        grown = after - before > allowed.get(name, 0)
        flat &= not grown
        print(f"  {name:10} {before:14,.0f} {after:14,.0f}{'  GREW' if grown else ''}")
    return flat


def median(rows: Iterable[Usage], name: str) -> float:
    return statistics.median(getattr(row, name) for row in rows)


def usage(folder: Path, seconds: float) -> Usage:
    """Return what this process and all below it use at the moment; memory that they share counts for each of them."""
    processes = [os.getpid(), *children(os.getpid())]
    sums = [0, 0, 0]
    for number in processes:
        try:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{number}/status").read_text().splitlines())
            used = (
                1024 * int(status["VmRSS"].split()[0]),
                len(os.listdir(f"/proc/{number}/fd")),
                int(status["Threads"]),
            )
        except (FileNotFoundError, KeyError):  # it has ended meanwhile
            continue
        sums = [a + b for a, b in zip(sums, used, strict=True)]
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    lines = sum(size for path, size in sizes.items() if set(path.relative_to(folder).parts) & set(GROWING))
    return Usage(seconds, *sums, len(processes), sum(sizes.values()) - lines, lines)


def children(number: int) -> list[int]:
    below = []
    for task in Path(f"/proc/{number}/task").iterdir():
        below += [int(child) for child in (task / "children").read_text().split()]
    return below + [grandchild for child in below for grandchild in children(child)]


if __name__ == "__main__":
    main()
