"""Samples by way of worker processes, so that an error arrives as it was raised, and says what it happened to.

torch hands an error in a worker over as the text of its traceback. Here a worker sends the error itself in the place of
the batch, and it is raised where the batch is asked for. A worker that hangs or is killed cannot do that; as the order
of the samples has no state, the files it was to read are found by asking for the order again.
"""

import re
import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path
from types import FrameType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from densenet_suite.damaged import DamagedImages
from densenet_suite.errors import DataError, SuiteError
from densenet_suite.image_opening import DamagedImageError
from densenet_suite.sampling import SampleKey, Stream, derive_seed

WORKER_TIMEOUT = 600  # seconds without a batch after which a worker is taken to hang
READING, READING_MASK, AUGMENTING = "reading the picture", "reading the mask", "augmenting"
_SHOWN = 4  # files in a message
T = TypeVar("T")


class SampleError(RuntimeError):
    """A fault of the program while a sample was made; the notes hold the traceback of the worker."""


class Failure(NamedTuple):
    """What a worker sends in the place of a batch."""

    error: Exception


class Samples(Dataset[T], ABC):
    """The samples of a split, by key: a function of the key and the files alone.

    Under the policy to skip damaged pictures, a training sample whose picture cannot be decoded is that of another
    picture, which follows from the seed and the key; so neither the number of workers nor a resume changes it. In
    evaluation it is an empty picture with the objects of the damaged one, which then count as missed: a score is always
    that of the whole split.

    Args:
        paths: of the split's pictures.
        seed: of what is random.
        trains: whether damaged pictures are replaced; if not, they are empty.
        damaged: takes down which pictures are; None to stop at the first.
    """

    def __init__(self, paths: Sequence[Path], seed: int, *, trains: bool, damaged: DamagedImages | None = None):
        self.paths = paths
        self.seed = seed
        self.trains = trains
        self.damaged = damaged
        self._image, self._stage = 0, ""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples in an epoch."""

    @abstractmethod
    def image_of(self, index: int) -> int:
        """Return the place of a sample's picture among the paths."""

    @abstractmethod
    def make(self, key: SampleKey) -> T:
        """Make a sample; what is read for it announces itself by `at_work`."""

    @abstractmethod
    def make_empty(self, key: SampleKey) -> T:
        """Make the sample of a picture on which nothing can be seen, for evaluation."""

    def at_work(self, stage: str, image: int) -> None:
        """Say what is being done now, and with which picture: errors end with it."""
        self._stage, self._image = stage, image

    def __getitem__(self, key: SampleKey) -> T:
        """Return a sample.

        Raises:
            SuiteError: a file cannot be used; it says which, for what sample, and at what stage.
            SampleError: the program has a fault.
        """
        for candidate in self._candidates(key):
            self.at_work(AUGMENTING, self.image_of(candidate.index))
            try:
                return self.make(candidate)
            except DamagedImageError as error:
                if self.damaged is None:
                    raise error.at(self._place(candidate)) from error
                self.damaged.add(self._image)
            except SuiteError as error:
                raise error.at(self._place(candidate)) from error
            except Exception as error:
                where = f"{self.paths[self._image]}; {self._place(candidate)}"
                raise SampleError(f"{type(error).__name__}: {error}  ({where})") from error
            if not self.trains:
                return self.make_empty(key)
        raise DataError("no picture of the split can be decoded", where=str(self.paths[self.image_of(key.index)]))

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[T] | Failure:
        """Return the samples of a batch, or the error that there was."""
        try:
            return [self[key] for key in keys]
        except Exception as error:
            if isinstance(error, SampleError) and get_worker_info() is not None:  # the traceback itself stays there
                error.add_note("".join(traceback.format_exception(error)))
            return Failure(error)

    def _place(self, key: SampleKey) -> str:
        return f"sample {key.index} of epoch {key.epoch}, {self._stage}"

    def _candidates(self, key: SampleKey) -> Iterator[SampleKey]:
        """Return the sample itself, and those that take its place, in turn."""
        yield key
        rng = np.random.default_rng(derive_seed(self.seed, Stream.REPLACEMENT, key.epoch, key.index))
        for index in rng.permutation(len(self)):
            if index != key.index:
                yield SampleKey(key.epoch, int(index))


class Loader(DataLoader[T], Generic[T]):
    """Batches of samples, made in worker processes.

    Args:
        samples: what batches are made of.
        collate: puts samples into a batch.
        workers: number of processes; 0 for none but this one.
        sampler: the order.
        batch: samples in each batch of it.
        drop_last: whether a rest that fills no batch is left out.
        batches: the order by batches, in the place of `sampler`.
        timeout: seconds without a batch after which a worker is taken to hang; without workers nothing is.
    """

    dataset: Samples[Any]

    def __init__(
        self,
        samples: Samples[Any],
        collate: Callable[[Sequence[Any]], Any],
        workers: int,
        *,
        sampler: Sampler[SampleKey] | None = None,
        batch: int = 1,
        drop_last: bool = False,
        batches: Sampler[list[SampleKey]] | None = None,
        timeout: float = WORKER_TIMEOUT,
    ):
        super().__init__(
            samples,
            batch_size=1 if batches is not None else batch,  # 1 is what torch wants to see beside `batches`
            sampler=sampler,
            batch_sampler=batches,
            drop_last=drop_last,
            collate_fn=partial(_collated, collate),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=_outlive_one_signal,
            timeout=timeout if workers else 0,
        )

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # torch promises a class of its own
        """Return the batches.

        Raises:
            SuiteError: a file cannot be used, or a worker hangs or was killed.
            SampleError: the program has a fault.
        """
        batches = super().__iter__()
        for number in count():
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                self.dismiss_workers()
                raise _told(error, self._files(number)) from error
            if isinstance(batch, Failure):
                self.dismiss_workers()
                raise batch.error
            yield batch

    def dismiss_workers(self) -> None:
        """End the workers; torch leaves it to the collector of garbage, which may wait 10 seconds for each."""
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # with workers it has one
            self._iterator = None

    def _files(self, number: int) -> list[Path]:
        """Return the pictures of a batch."""
        keys = next(islice(iter(self.batch_sampler or ()), number, None), [])
        return [self.dataset.paths[self.dataset.image_of(key.index)] for key in keys]


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Say plainly that a worker was killed: torch raises this wherever the program is at that moment."""
    try:
        yield
    except RuntimeError as error:
        told = _told(error, [])
        if told is error:
            raise
        raise told from error


def _collated(collate: Callable[[Sequence[Any]], Any], samples: Sequence[Any] | Failure) -> Any:
    return samples if isinstance(samples, Failure) else collate(samples)


def _told(error: RuntimeError, files: Sequence[Path]) -> Exception:
    """Return torch's error of a worker that hangs or was killed as one that says what to do; any other as it is."""
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    where = ", ".join(str(path) for path in files[:_SHOWN]) + more if files else None
    hangs = re.match(r"DataLoader timed out after (\S+) seconds", str(error))
    if hangs:
        return SuiteError(
            f"no batch came for {float(hangs[1]):g} seconds: a process that reads pictures hangs",
            where=where,
            hint="these were to be read next: is the drive they are on still there?",
        )
    ended = re.match(r"DataLoader worker \(pid.*?\) (is killed by signal: [^.]*|exited unexpectedly)", str(error))
    if ended:  # by what it was doing then, which may be any of the batches ahead
        return SuiteError(
            f"a process that reads pictures ended: it {ended[1]}",
            hint="mostly the memory is too little for so many of them: lower data.workers, or data.cache_gb",
        )
    return error


def _outlive_one_signal(worker: int) -> None:
    """Leave the first signal that ends a run to the process that trains, which still needs its worker."""

    def wait(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), wait)
