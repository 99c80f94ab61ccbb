"""Randomness without state: every draw is a function of the seed and of where in the run it is made.

The order of an epoch follows from (seed, epoch), a sample's augmentation from (seed, epoch, index), a step's dropout
from (seed, epoch, batch, rank). So the number of workers changes nothing, a resumed run draws what an uninterrupted
one would have drawn, and a batch can be replayed from a few integers.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from torch.utils.data import Sampler


class Stream(IntEnum):
    """What a random stream is for; streams of one seed are independent."""

    ORDER = 0
    SAMPLE = 1
    STEP = 2
    WEIGHTS = 3
    HOLDOUT = 4
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


class EpochSampler(Sampler[SampleKey]):
    """A permutation of the dataset per epoch, cut into one part per process, each sample drawn at most once.

    Every process gets the same number of samples; the few that do not divide are left out of this epoch, and another
    permutation leaves out others in the next. Lightning calls `set_epoch`.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, processes: int = 1):
        if size < processes:
            raise ValueError(f"{size} samples cannot be divided among {processes} processes")
        self.size, self.seed, self.rank, self.processes = size, seed, rank, processes
        self.epoch = 0
        self._done = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation."""
        self.epoch = epoch

    def skip(self, epoch: int, count: int) -> None:
        """Leave out the first samples of this process in one epoch: they were drawn before a run was stopped."""
        self._done = (epoch, count)

    def __len__(self) -> int:
        return self.size // self.processes

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.random.default_rng(derive_seed(self.seed, Stream.ORDER, self.epoch)).permutation(self.size)
        mine = order[self.rank : len(self) * self.processes : self.processes]
        epoch, count = self._done
        return (SampleKey(self.epoch, int(index)) for index in (mine[count:] if epoch == self.epoch else mine))


class SequentialShard(Sampler[SampleKey]):
    """Every sample once, in order, divided among the processes without padding: evaluation counts none twice."""

    def __init__(self, size: int, rank: int = 0, processes: int = 1):
        self.indices = range(rank, size, processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(0, index) for index in self.indices)
