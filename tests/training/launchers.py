"""Runs of two processes, started as each launcher does."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from conftest import REPOSITORY

TRAIN = ("-m", "densenet_suite", "train")


def by_lightning(arguments: Sequence[object]) -> list[subprocess.Popen]:
    return [start([*TRAIN, *arguments, "trainer.devices=2", "trainer.strategy=ddp"])]


def by_torchrun(arguments: Sequence[object]) -> list[subprocess.Popen]:
    return [start(["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", *TRAIN, *arguments])]


def by_slurm(arguments: Sequence[object], program: Sequence[object] = TRAIN) -> list[subprocess.Popen]:
    """Start what srun would on two machines with a process each."""
    common = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_LOCALID": "0",
        "MASTER_PORT": str(_free_port()),
    }
    own = [{"SLURM_PROCID": rank, "SLURM_NODEID": rank} for rank in "01"]
    return [start([*program, *arguments], **common, **variables) for variables in own]


def start(arguments: Sequence[object], **variables: str) -> subprocess.Popen:
    """Start Python."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(processes: Sequence[subprocess.Popen]) -> str:
    """Wait for processes that are to end well, and return what they say."""
    said = "".join(process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
