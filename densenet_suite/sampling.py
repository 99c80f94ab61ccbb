"""Randomness without state: every draw is a function of the seed and of where in the run it is made.

The order of an epoch follows from (seed, epoch), a sample's augmentation from (seed, epoch, index), a step's dropout
from (seed, epoch, batch, rank). So the number of workers changes nothing, a resumed run draws what an uninterrupted
one would have drawn, and a batch can be replayed from a few integers.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from torch.utils.data import Sampler


class Stream(IntEnum):
    """What a random stream is for; streams of one seed are independent."""

    ORDER = 0
    SAMPLE = 1
    STEP = 2
    WEIGHTS = 3
    HOLDOUT = 4
    PARTNERS = 5
    REPLACEMENT = 6
    DIVISION = 7


def derive_seed(seed: int, stream: Stream, *position: int) -> int:
    """Return 63 bits that depend on every argument."""
    text = ",".join(str(int(part)) for part in (seed, stream, *position))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def held_out(names: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    """Divide files into those to train on and those to validate on; return their places.

    Which file goes where follows from its name alone, so new ones do not move the old ones across; the share is met on
    average. Where chance would leave one side empty, the nearest file goes there.
    """
    draws = [
        derive_seed(int.from_bytes(name.encode("utf-8", "surrogatepass"), "big"), Stream.HOLDOUT) / 2**63
        for name in names
    ]
    held = {i for i, draw in enumerate(draws) if draw < share}
    held = held or {draws.index(min(draws))}
    if len(held) == len(names):
        held.remove(draws.index(max(draws)))
    return [i for i in range(len(names)) if i not in held], sorted(held)


@dataclass(frozen=True)
class SampleKey:
    """Which sample to draw: the epoch decides its augmentation."""

    epoch: int
    index: int


class EpochOrder(Sampler[SampleKey], ABC):
    """The samples of one process, in another order in each epoch, each of them at most once.

    Every process gets the same number of samples; the few that do not divide are left out of this epoch, and another
    order leaves out others in the next. Lightning calls `set_epoch`.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, processes: int = 1):
        if size < processes:
            raise ValueError(f"{size} samples cannot be divided among {processes} processes")
        self.size, self.seed, self.rank, self.processes = size, seed, rank, processes
        self.epoch = 0
        self._done = (0, 0)

    @abstractmethod
    def _mine(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return the samples of this process; `rng` is the same for all of them."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self.epoch = epoch

    def skip(self, epoch: int, count: int) -> None:
        """Leave out the first samples of this process in one epoch: they were drawn before a run was stopped."""
        self._done = (epoch, count)

    def __len__(self) -> int:
        return self.size // self.processes

    def __iter__(self) -> Iterator[SampleKey]:
        mine = self._mine(np.random.default_rng(derive_seed(self.seed, Stream.ORDER, self.epoch)))
        epoch, count = self._done
        return (SampleKey(self.epoch, int(index)) for index in (mine[count:] if epoch == self.epoch else mine))


class EpochSampler(EpochOrder):
    """A permutation of the dataset per epoch, cut into one part per process."""

    def _mine(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        return rng.permutation(self.size)[self.rank : len(self) * self.processes : self.processes]


class ShardSampler(EpochOrder):
    """An order for datasets in shards, in which each process reads a few shards at a time.

    The shards of an epoch are permuted and laid in a row, which is cut into equal parts: a process has whole shards to
    itself, but for those at the cuts. It goes through them by windows of several shards, whose samples it mixes.

    Args:
        shards: the samples of each shard.
        seed: of the order.
        rank: number of this process.
        processes: how many there are.
        window: shards whose samples are mixed.
    """

    def __init__(
        self, shards: Sequence[Sequence[int]], seed: int, rank: int = 0, processes: int = 1, *, window: int = 8
    ):
        super().__init__(sum(len(shard) for shard in shards), seed, rank, processes)
        self.shards = [np.array(shard, np.int64) for shard in shards]
        self.window = window

    def _mine(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        order = rng.permutation(len(self.shards))
        row = np.concatenate([rng.permutation(self.shards[i]) for i in order])
        shard = np.repeat(np.arange(len(order)), [len(self.shards[i]) for i in order])
        part = slice(self.rank * len(self), (self.rank + 1) * len(self))
        row, shard = row[part], shard[part]
        windows = (shard - shard[0]) // self.window
        mixed = np.random.default_rng(rng.integers(2**63, size=self.rank + 1)).permutation(len(row))
        return row[mixed[np.argsort(windows[mixed], kind="stable")]]


def epoch_order(shards: Sequence[Sequence[int]] | None, size: int, seed: int, rank: int, processes: int) -> EpochOrder:
    """Return the order for a dataset of files, or for one whose samples lie in shards."""
    if shards is None:
        return EpochSampler(size, seed, rank, processes)
    return ShardSampler(shards, seed, rank, processes)


class SequentialShard(Sampler[SampleKey]):
    """Every sample once, in order, divided among the processes without padding: evaluation counts none twice."""

    def __init__(self, size: int, rank: int = 0, processes: int = 1):
        self.indices = range(rank, size, processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(0, index) for index in self.indices)
