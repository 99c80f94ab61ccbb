"""Which process of a distributed run this is, read from what launchers set; known before torch is imported."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from densenet_suite.errors import ConfigError

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK")
_TORCHRUN = {
    "rank": "RANK",
    "local_rank": "LOCAL_RANK",
    "node": "GROUP_RANK",
    "processes": "WORLD_SIZE",
    "per_node": "LOCAL_WORLD_SIZE",
    "port": "MASTER_PORT",
}
_SLURM = {
    "rank": "SLURM_PROCID",
    "local_rank": "SLURM_LOCALID",
    "node": "SLURM_NODEID",
    "processes": "SLURM_STEP_NUM_TASKS",
    "job": "SLURM_JOB_ID",
}
_PORTS = 15_000, 10_000  # Slurm names none: the first, and how many jobs of one machine may have one each


@dataclass(frozen=True)
class Launch:
    """A run that torchrun or Slurm's srun has started in several processes, as one of them sees it.

    Attributes:
        launcher: its name.
        rank: of this process among all; 0 is the first.
        local_rank: of this process among those of its machine.
        node: the number of the machine.
        processes: how many there are.
        per_node: how many of them each machine has.
        address: of the first process.
        port: that it listens at.
    """

    launcher: str
    rank: int
    local_rank: int
    node: int
    processes: int
    per_node: int
    address: str
    port: int

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """Return what a launcher has set; None for a process that was started alone, or by Lightning.

        Raises:
            ConfigError: a variable is missing or no number, or machines have different numbers of processes.
        """
        if "TORCHELASTIC_RUN_ID" in environ:
            numbers = _numbers(environ, "torchrun", _TORCHRUN)
            launch = cls("torchrun", **numbers, address=environ.get("MASTER_ADDR", "127.0.0.1"))
        elif environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":  # a shell of Slurm has other numbers, but not this one
            numbers = _numbers(environ, "Slurm", _SLURM)
            per_node = _tasks_of_each_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
            address = environ.get("MASTER_ADDR") or _first_host(environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
            port = _PORTS[0] + numbers.pop("job") % _PORTS[1]
            if "MASTER_PORT" in environ:
                port = _numbers(environ, "Slurm", {"port": "MASTER_PORT"})["port"]
            launch = cls("Slurm", **numbers, per_node=per_node, address=address, port=port)
        else:
            return None
        if launch.rank != launch.node * launch.per_node + launch.local_rank:
            raise ConfigError(
                f"process {launch.rank} of {launch.launcher} is number {launch.local_rank} of machine {launch.node}, "
                f"which has {launch.per_node}: processes are to be counted machine by machine",
                hint="every machine needs as many as the others; srun --distribution=block",
            )
        return launch if launch.processes > 1 else None

    @property
    def nodes(self) -> int:
        """The number of machines."""
        return self.processes // self.per_node

    def variables(self) -> dict[str, str]:
        """Return what torch and Lightning look for."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "NODE_RANK": str(self.node),
            "WORLD_SIZE": str(self.processes),
            "LOCAL_WORLD_SIZE": str(self.per_node),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def is_first_process() -> bool:
    """Say whether this process is the one that writes files and talks: the only one, or the first of several."""
    launch = Launch.read()
    if launch is not None:
        return launch.rank == 0
    return all(os.environ.get(name, "0") in ("", "0") for name in _RANKS)


def _numbers(environ: Mapping[str, str], launcher: str, names: Mapping[str, str]) -> dict[str, Any]:
    numbers = {}
    for field, name in names.items():
        value = environ.get(name, "")
        if not re.fullmatch(r"[0-9]{1,9}", value):
            raise ConfigError(
                f"{name} is {value!r}, where {launcher} sets a number", hint="was the environment changed?"
            )
        numbers[field] = int(value)
    return numbers


def _tasks_of_each_node(text: str) -> int:
    """Return the number that Slurm writes as `4(x2)`, or as `4,4` in older ones."""
    counts = set(re.findall(r"(?:^|,)([0-9]+)", text))
    if len(counts) != 1:
        raise ConfigError(
            f"Slurm has started {text or 'an unknown number of'} processes on its machines: not the same on each",
            hint="srun --ntasks-per-node",
        )
    return int(counts.pop())


def _first_host(hosts: str) -> str:
    """Return the first of a list such as `gpu[003-006,9],cpu1`."""
    return re.sub(r"\[([0-9]+).*?\]", r"\1", hosts).split(",")[0]
