"""How much memory is free, of a GPU or of the machine, and how much of it a piece of work takes."""

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from densenet_suite.errors import ConfigError

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


class Room(NamedTuple):
    """Memory, in bytes: what is free, and what of it may be taken."""

    free: int
    limit: int


@dataclass(frozen=True)
class DeviceMemory:
    """The memory that a device works in.

    Attributes:
        device: a CUDA GPU, or the CPU.
    """

    device: torch.device

    def __post_init__(self) -> None:
        if not self.is_gpu and not (self.device.type == "cpu" and (_PROC / "self" / "clear_refs").exists()):
            raise ConfigError(
                f"train.batch: auto measures memory on CUDA GPUs and on the CPU under Linux, not on {self.device.type} "
                "here",
                hint="write a number, such as train.batch=8",
            )

    @property
    def is_gpu(self) -> bool:
        """Whether asking for too much raises an error; the system ends a process that fills the machine's memory."""
        return self.device.type == "cuda"

    def room(self) -> Room:
        """Return what is free now.

        Of a GPU nine tenths may be taken. Of the machine it is half, as the system may need some of what it calls free,
        the processes that read pictures take their share, and it cannot be tried out.
        """
        if self.is_gpu:
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info(self.device)[0]
            return Room(free, free * 9 // 10)
        free = free_memory()
        return Room(free, free // 2)

    def held(self) -> int:
        """Return what this process holds now."""
        if self.is_gpu:
            return torch.cuda.memory_reserved(self.device)
        _give_back()
        return _status("VmRSS")

    def peak_of(self, work: Callable[[], None]) -> int:
        """Do some work, and return the most that this process held meanwhile."""
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            return torch.cuda.max_memory_reserved(self.device)
        _give_back()
        (_PROC / "self" / "clear_refs").write_text("5")  # the peak so far is forgotten
        work()
        return _status("VmHWM")


def free_memory() -> int:
    """Return what the machine has free, or what the group of processes that this one is in may still take, if less."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", (_PROC / "meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return min([1024 * int(found[1]), *_left_to_groups()])


def _left_to_groups() -> Iterator[int]:
    """Yield what the control groups around this process have left, of either version."""
    for line in (_PROC / "self" / "cgroup").read_text().splitlines():
        _, kind, path = line.split(":", 2)
        if kind not in ("", "memory"):
            continue
        limit, used, reclaimable = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if kind
            else ("memory.max", "memory.current", "inactive_file")
        )
        inner = _GROUPS / kind / path.strip("/")
        for group in (inner, *inner.parents):
            if not group.is_relative_to(_GROUPS / kind):
                break
            values = [_read(group / name) for name in (limit, used, "memory.stat")]
            if not values[0].isdecimal() or not values[1].isdecimal():  # a group without limits, or unseen from here
                continue
            cached = re.search(rf"^{reclaimable} (\d+)$", values[2], re.MULTILINE)
            yield max(0, int(values[0]) - int(values[1]) + (int(cached[1]) if cached else 0))


def _give_back() -> None:
    """Give the system back what C has kept of freed memory: work that took it again would seem to take nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", (_PROC / "self" / "status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
