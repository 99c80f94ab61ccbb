"""How many times faster two processes train than one: gloo, one thread each, wall time of the same images.

    python tools/two_processes.py
    python tools/two_processes.py --rounds 5 --images 320

It needs two idle cores: whatever else runs there counts as ours. EfficientDet-D0 trains on synthetic pictures as
`train` does it, with augmentation and all callbacks of a run: as one process, and as two of the same batch each, which
Lightning starts and whose gradients meet in every step. Both learn from the same number of images while the clock runs;
it starts after a few steps and stops before the epoch's end. Both are run in turn, and rounds begin with one or the
other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import lightning as L
import torch

from densenet_suite.config.load import config_from_values
from densenet_suite.processes import is_first_process
from densenet_suite.synthetic import write_synthetic
from densenet_suite.training.fit import fit
from densenet_suite.training.run import Run

_FIRST = 4  # steps before the clock starts


class Clock(L.Callback):
    """Takes the wall time of some steps of an epoch, each from the end of one before it."""

    def __init__(self, steps: int):
        self.last = _FIRST + steps - 1
        self.started = self.seconds = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note that a step has ended."""
        if batch_idx == _FIRST - 1:
            self.started = time.perf_counter()
        elif batch_idx == self.last:
            self.seconds = time.perf_counter() - self.started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=160, help="that are learned from while the clock runs")
    parser.add_argument("--batch", type=int, default=4, help="images per process and step")
    parser.add_argument("--size", type=int, default=256, help="of the images, a multiple of 128")
    # of a run: the folder to train in, and the number of processes
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.images % (2 * options.batch):
        parser.error(f"--images {options.images} is no multiple of {2 * options.batch}, a step of two processes")
    if options.folder:
        train(options)
    elif len(os.sched_getaffinity(0)) < 2:
        parser.error("there is a single core here: two processes need one each")
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run both in turn, and print how many times faster two processes are."""
    print(f"load of the machine before the start: {os.getloadavg()[0]:.2f}; above 0 the ratio is too low", flush=True)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="two-processes-") as folder:
        count = options.images + _FIRST * 2 * options.batch
        write_synthetic(Path(folder) / "data", {"train": count}, size=(options.size, options.size))
        for number in range(options.rounds):
            order = (1, 2) if number % 2 == 0 else (2, 1)
            speeds = {processes: images_per_second(options, processes, Path(folder)) for processes in order}
            ratios.append(speeds[2] / speeds[1])
            print(f"round {number + 1}: {ratios[-1]:.2f} times as many images per second", flush=True)
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"two processes against one: {low:.2f} / {middle:.2f} / {high:.2f} (min / median / max)")


def images_per_second(options: argparse.Namespace, processes: int, folder: Path) -> float:
    """Train in processes of their own; return how many images a second were learned from."""
    given = {"images": options.images, "batch": options.batch, "size": options.size}
    given |= {"folder": folder, "processes": processes}
    arguments = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}a run of {processes} processes has failed")
    return options.images / json.loads((folder / "seconds.json").read_text())


def train(options: argparse.Namespace) -> None:
    """Train a run as one of its processes; the first writes down the seconds of the measured steps."""
    torch.set_num_threads(1)
    clock = Clock(options.images // (options.batch * options.processes))
    config = config_from_values(values(options), where="tools/two_processes.py")
    fit(config, Run.create(config), callbacks=[clock])
    if is_first_process():
        (options.folder / "seconds.json").write_text(json.dumps(clock.seconds))


def values(options: argparse.Namespace) -> dict[str, Any]:
    """Return the config of a run."""
    return {
        "task": "detection",
        "name": f"of-{options.processes}",
        "output": str(options.folder / "runs"),
        "model": {"architecture": "tf_efficientdet_d0"},
        "data": {"root": str(options.folder / "data"), "size": options.size, "workers": 0, "holdout": 0.0},
        "train": {"epochs": 1, "batch": options.batch},
        "trainer": {
            "accelerator": "cpu",
            "devices": options.processes,
            "strategy": "ddp" if options.processes > 1 else "auto",
        },
    }


if __name__ == "__main__":
    main()
