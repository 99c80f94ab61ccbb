"""Runs of several processes that a launcher has started: what they share before Lightning brings them together."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from densenet_suite.config.schema import Config
from densenet_suite.errors import ConfigError, SuiteError
from densenet_suite.processes import Launch

# how gloo and NCCL call it
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "ncclRemoteError")


class LostProcessError(SuiteError):
    """Another process of a run has ended, and this one cannot go on without it."""


class Processes(LightningEnvironment):
    """Those that Lightning starts, or that a launcher has started, for as many Trainers as a program makes."""

    def teardown(self) -> None:
        """Leave what the launcher has set, which Lightning deletes after the first Trainer."""


def trainer_options(config: Config) -> dict[str, Any]:
    """Return the config's arguments of the Trainer, with the processes that a launcher has started.

    Lightning is told of them here, and looks at no launcher by itself: it takes any process within a Slurm job for one
    of several, and then waits for the others.

    Raises:
        ConfigError: the config asks for another number of processes than were started.
    """
    options = {"plugins": [Processes()], **config.trainer}
    launch = Launch.read()
    if launch is None:
        return options
    for name, started in (("devices", launch.per_node), ("num_nodes", launch.nodes)):
        asked = options.get(name, "auto")
        if (len(asked) if isinstance(asked, list) else asked) not in ("auto", -1, started):
            raise ConfigError(
                f"trainer.{name} is {asked}, and {launch.launcher} has started {launch.per_node} processes on each of "
                f"{launch.nodes} machines",
                hint=f"leave trainer.{name} out: the launcher decides it",
            )
        options[name] = asked if isinstance(asked, list) else started
    if options.get("strategy", "auto") == "auto":
        options["strategy"] = "ddp"
    return options


def from_first_process(launch: Launch, config: Config, make: Callable[[], str]) -> str:
    """Let the first of all processes make something, and return it in each.

    Raises:
        ConfigError: the first one could not.
        Exception: in the first one, what `make` raises.
    """
    os.environ.update(launch.variables())
    if not torch.distributed.is_initialized():
        _join(launch, config)
    made: list[str | None] = [None]
    failure: Exception | None = None
    if launch.rank == 0:
        try:
            made = [make()]
        except Exception as error:
            failure = error
    torch.distributed.broadcast_object_list(made)
    if failure is not None:
        raise failure
    if made[0] is None:
        raise ConfigError("the first process could not begin the run", hint="what it says tells why")
    return made[0]


def _join(launch: Launch, config: Config) -> None:
    """Make the group of processes that Lightning will find made."""
    backend = "gloo"
    if torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda"):
        torch.cuda.set_device(launch.local_rank)
        backend = "nccl"
    torch.distributed.init_process_group(backend, rank=launch.rank, world_size=launch.processes)
    atexit.register(_part)


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def plain_process_errors() -> Iterator[None]:
    """Say plainly that another process has ended: what torch raises names a socket, and not what happened.

    Raises:
        LostProcessError: it has.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise LostProcessError(
            "another process of this run has ended, and all end with it",
            hint="what it said, here or on its machine, tells why; `resume` goes on from the last checkpoint",
        ) from error
