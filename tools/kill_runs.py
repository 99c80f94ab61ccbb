"""Kill a run at random moments, resume it each time, and hold its end against that of a run that was left alone.

    python tools/kill_runs.py configs/segment_membranes.yaml data.root=../shared/data/isbi-em train.epochs=2 --kills 30
    python tools/kill_runs.py configs/detect_bccd_d0.yaml data.root=../shared/data/bccd --kills 30 --signal TERM

Both runs save after every step (train.save_minutes=0), and every other kill waits until a file is being written. The
weights, their average, the optimizer, the best model and metrics.csv have to be the same to the bit; it exits with 1
where they are not. One thread computes, for sums in another order are rounded otherwise.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from safetensors.torch import load_file

from densenet_suite.config.load import load_config
from densenet_suite.training.fit import fit
from densenet_suite.training.run import Run

PARTS = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "recent_images")


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


def train_in_child(run: Run, *, resume: bool) -> int:
    """Fork a process that trains into a run folder, and return its number; it exits with 0 where training ended."""
    child = os.fork()
    if child:
        return child
    code = 1
    # as a shell tells a process that SIGTERM ended, for the moments in which there is no run yet, or none any more
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        os.setsid()  # with its loader's workers, so that all of them can be killed
        fit(run.config, run, resume=resume)
        code = 0
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child; that of one that a signal ended is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_until_done(
    run: Run, kills: int, longest: float, number: int, rng: random.Random, say: Callable[[str], None] = lambda _: None
) -> tuple[int, int]:
    """Train a run that is stopped at random moments, every other time while a checkpoint is written.

    Args:
        run: a new one.
        kills: how often it is stopped.
        longest: seconds that it is let run before, at most.
        number: of the signal.
        rng: chooses the moments.
        say: is told what happens.

    Returns:
        how many times it was stopped before it ended by itself, and how many of these within the writing of a file.
    """
    writing, resume = 0, False
    for i in range(kills):
        child = train_in_child(run, resume=resume)
        begun = time.monotonic()
        moment = begun + rng.uniform(0, longest)
        while time.monotonic() < moment or (i % 2 and not _is_writing(run) and time.monotonic() < moment + longest):
            if os.waitpid(child, os.WNOHANG)[0]:
                say(f"{i} kills: the run ended before the next")
                return i, writing
            time.sleep(0.001)
        writing += _is_writing(run)
        os.killpg(child, number) if number == signal.SIGKILL else os.kill(child, number)
        code = wait(child)
        assert code in (-signal.SIGKILL, 128 + number, 0), code
        say(f"kill {i + 1} after {time.monotonic() - begun:.1f} s: exit code {code}")
        if code == 0:
            return i, writing
        resume = True
    assert wait(train_in_child(run, resume=resume)) == 0
    return kills, writing


def assert_same_end(run: Run, whole: Run) -> None:
    """Hold a run against one that was never stopped: to the bit."""
    ours, theirs = (torch.load(r.last_checkpoint) for r in (run, whole))
    for part in PARTS:
        torch.testing.assert_close(
            ours[part], theirs[part], rtol=0, atol=0, msg=lambda text, part=part: f"{part}: {text}"
        )
    averages = [checkpoint["callbacks"]["EvaluationWeights"] for checkpoint in (ours, theirs)]
    torch.testing.assert_close(*averages, rtol=0, atol=0)
    torch.testing.assert_close(load_file(run.model_path), load_file(whole.model_path), rtol=0, atol=0)
    assert run.metrics_path.read_text() == whole.metrics_path.read_text()


def make_run(config: Path, folder: Path, name: str, overrides: list[str]) -> Run:
    """Return a new run."""
    return Run.create(load_config(config, [f"output={folder}", f"name={name}", *overrides]))


def _is_writing(run: Run) -> bool:
    return any(run.dir.rglob(".*.tmp-*"))


if __name__ == "__main__":
    main()
