"""Kill a run at random moments, resume it each time, and hold its end against that of a run that was left alone.

    python tools/kill_runs.py configs/segment_membranes.yaml data.root=../shared/data/isbi-em train.epochs=2 --kills 30
    python tools/kill_runs.py configs/detect_blood.yaml data.root=../shared/data/bccd --kills 30 --signal TERM

Both runs save after every step (train.save_minutes=0), and every other kill waits until a file is being written. The
weights, their average, the optimizer, the best model and metrics.csv have to be the same to the bit; it exits with 1
where they are not. One thread computes, for sums in another order are rounded otherwise.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from killing import assert_same_end, kill_until_done, make_run, train_in_child, wait


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="changes of the form train.epochs=10")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as folder:
        compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    overrides = [*options.overrides, "train.save_minutes=0", "data.workers=0"]
    whole = make_run(options.config, folder, "whole", overrides)
    began = time.monotonic()
    if wait(train_in_child(whole, resume=False)):
        raise SystemExit("the run that is left alone failed")
    took = time.monotonic() - began
    print(f"the run that was left alone: {whole.summary['steps']} steps in {took:.0f} s", flush=True)
    killed = make_run(options.config, folder, "killed", overrides)
    number = getattr(signal, f"SIG{options.signal}")
    rng = random.Random(options.seed)
    kills, writing = kill_until_done(
        killed, options.kills, took / options.kills, number, rng, lambda text: print(text, flush=True)
    )
    try:
        assert_same_end(killed, whole)
    except AssertionError as error:
        raise SystemExit(f"the ends differ: {error}") from None
    print(f"{kills} times SIG{options.signal}, {writing} within a write: the ends are the same to the bit")


if __name__ == "__main__":
    main()
