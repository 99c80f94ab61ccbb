"""What datasets of every task have in common: splits that are read when they are asked for, hold-out, and loaders."""

import logging
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import lightning as L
from torch.utils.data import DataLoader

from densenet_suite.archives.members import file_that_holds
from densenet_suite.damaged import DamagedImages
from densenet_suite.division.split_files import SPLITS
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.findings import Findings
from densenet_suite.pixel_cache import CachePlace, DiskCache, PixelCache, RamCache, cache_folder
from densenet_suite.volumes.voxels import file_of

logger = logging.getLogger(__name__)


class Split(Protocol):
    """Labelled images of one split; `findings` are what was mended while reading it."""

    @property
    def findings(self) -> Findings:
        """What was noticed."""

    @property
    def paths(self) -> Sequence[Path]:
        """The image files."""

    @property
    def files(self) -> Sequence[Path]:
        """All files that are read, labels too."""

    def __len__(self) -> int:
        """Return the number of images."""


S = TypeVar("S", bound=Split)


@dataclass(frozen=True)
class Reading:
    """How the files of a dataset are read; nothing of it changes a sample, but for damaged pictures.

    Attributes:
        cache: where decoded training pictures are kept: "ram", "disk", or None for nowhere.
        cache_gb: size of the cache.
        skip_damaged: whether pictures that cannot be decoded are left out and counted, see `loading.Samples`; if not,
            the first stops the run.
    """

    cache: CachePlace | None = None
    cache_gb: float = 4.0
    skip_damaged: bool = False


class LabelledData(L.LightningDataModule, ABC, Generic[S]):
    """Train, val and test splits of a dataset.

    Args:
        root: folder of the dataset.
        batch: images per process and step.
        holdout: share of the training images that is validated on where there is no val split.
        workers: processes that read images; None for none where the CPU trains, and up to 8 beside a GPU. Their number
            changes nothing but the speed.
        reading: how files are read.
    """

    def __init__(
        self, root: str | Path, batch: int, holdout: float, workers: int | None, reading: Reading | None = None
    ):
        super().__init__()
        self.root = Path(root)
        self.batch = batch
        self.holdout = holdout
        self._workers = workers
        self.reading = reading or Reading()
        self._read: dict[str, S] = {}
        self.damaged: dict[str, DamagedImages] = {}

    @abstractmethod
    def has_files(self, name: str) -> bool:
        """Say whether there are files of a split."""

    @abstractmethod
    def read_split(self, name: str, findings: Findings | None = None) -> S:
        """Read and check a split that has files.

        Args:
            name: of the split.
            findings: takes what is found; None for one of its own, at whose errors reading stops.

        Raises:
            DataError: they are faulty.
        """

    @abstractmethod
    def divide(self, train: S) -> tuple[S, S]:
        """Divide a training split into one to train on and one to validate on."""

    @abstractmethod
    def expected(self, name: str) -> str:
        """Return where the files of a split are looked for, as a hint."""

    @abstractmethod
    def recognised(self, name: str) -> str:
        """Say what the files of a split were taken for, and why; or that they were not understood."""

    @property
    @abstractmethod
    def epoch_length(self) -> int:
        """Samples to train on in an epoch."""

    @abstractmethod
    def largest_batch(self, images: int) -> Any:
        """Return noise in the form of a batch to train on, with as many objects to an image as there can be."""

    @abstractmethod
    def eval_dataloader(self, split: str) -> DataLoader[Any]:
        """Return the images of any split, each once and unchanged."""

    @cached_property
    def splits(self) -> dict[str, S]:
        """All splits that there are; what is trained on and evaluated too is among their findings.

        Raises:
            DataError: files are missing or faulty.
        """
        found = {name: split for name in SPLITS if (split := self._get(name)) is not None}
        _warn_of_shared_images(found)
        return found

    def split(self, name: str) -> S:
        """Return a split, read and checked when first asked for.

        Raises:
            DataError: there is no such split, or its files are missing or faulty.
        """
        found = self._get(name)
        if found is None:
            there = ", ".join(split for split in SPLITS if self.has_files(split)) or "none"
            raise DataError(
                f"there is no {name} split (found: {there})", where=str(self.root), hint=self.expected(name)
            )
        return found

    def examine(self) -> dict[str, tuple[S | None, Findings]]:
        """Read every split that has files, without stopping at what is wrong with them.

        Returns:
            for each split, what of it is sound (None where nothing is), and all that was found.
        """
        examined: dict[str, tuple[S | None, Findings]] = {}
        for name in SPLITS:
            findings = Findings(str(self.root), stops=False)
            split = None
            try:
                if not self.has_files(name):
                    continue
                split = self._read[name] = self.read_split(name, findings)
            except DataError as error:
                findings.record(error, "unreadable")
            examined[name] = split, findings
        return examined

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the images of the val split, each once; nothing where there is no such split."""
        return self.eval_dataloader("val") if self._get("val") is not None else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the images of the test split, each once."""
        return self.eval_dataloader("test")

    @property
    def place(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def workers(self) -> int:
        """Processes that read, of each loader."""
        return _suitable_workers(self.trainer) if self._workers is None else self._workers

    def make_cache(self, images: int) -> PixelCache | None:
        """Return an empty cache for the training pictures, or what earlier runs have left of one; None for none.

        Raises:
            ConfigError: worker processes of this system cannot share memory, or there is not that much of it.
        """
        if self.reading.cache is None:
            return None
        limit = int(self.reading.cache_gb * 1e9) // self.place[1]
        if self.reading.cache == "ram":
            if self.workers and multiprocessing.get_start_method() != "fork":
                raise ConfigError(
                    "data.cache: ram needs worker processes that share memory, which those of this system do not",
                    hint="data.cache=disk, or data.workers=0",
                )
            return RamCache(limit, images)
        cache = DiskCache(cache_folder(self.root), limit)
        logger.info("decoded pictures are kept in %s (up to %g GB)", cache.folder, self.reading.cache_gb)
        return cache

    def damage(self, name: str) -> DamagedImages | None:
        """Return what takes down the damaged pictures of a split, under the policy to skip them; else None."""
        if not self.reading.skip_damaged:
            return None
        if name not in self.damaged:
            self.damaged[name] = DamagedImages(name, self.split(name).paths)
        return self.damaged[name]

    def note_damage(self) -> list[str]:
        """Put pictures that turned out to be damaged among the findings of their splits; return a line for each."""
        lines = []
        for name, damage in self.damaged.items():
            findings = self.split(name).findings
            known = {Path(entry["file"]) for entry in findings.damaged}
            for path in damage.found:
                if path not in known:
                    findings.leave_out(path, "it cannot be decoded")
                    what = "other pictures take its place" if name == "train" else "its objects count as missed"
                    lines.append(f"{name}: {path} cannot be decoded; {what}")
        return lines

    def _get(self, name: str) -> S | None:
        if name in self._read:
            return self._read[name]
        if name != "test" and self.holdout > 0 and not self.has_files("val"):
            self._hold_out()
        elif self.has_files(name):
            self._read[name] = self._read_inside(name)
        return self._read.get(name)

    def _read_inside(self, name: str) -> S:
        """Read a split, and refuse files that are links out of the dataset."""
        logger.info("the %s split is read as %s", name, self.recognised(name))
        split = self.read_split(name)
        outside = linked_outside(split.files, self.root)
        if outside:
            more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
            raise DataError(
                f"{outside[0]} is a link to {outside[0].resolve()}{more}: files of a dataset lie inside its folder",
                where=str(self.root),
                hint="copy them into it, or link their whole folder",
            )
        return split

    def _hold_out(self) -> None:
        """Divide the training split, where it can be, into one to train on and one to validate on."""
        if not self.has_files("train"):
            return
        train = self._read["train"] = self._read_inside("train")
        if len(train) > 1:
            self._read["train"], self._read["val"] = self.divide(train)
            logger.info(
                "no val split under %s: %d of %d training images are held out to validate on (data.holdout=%s)",
                self.root,
                len(self._read["val"]),
                len(train),
                self.holdout,
            )


def linked_outside(files: Iterable[Path], root: Path) -> list[Path]:
    """Return the files that are symbolic links to files outside a dataset's folder, and outside the one they are in.

    A link of a whole folder is the user's own way to put a dataset together, and is followed.
    """
    inside = root.resolve()
    held = dict.fromkeys(file_that_holds(file_of(path)) for path in files)  # slices and members share theirs
    links = (path for path in held if path.is_symlink())
    return [
        path
        for path in links
        if not any(path.resolve().is_relative_to(place) for place in (inside, path.parent.resolve()))
    ]


def _warn_of_shared_images(splits: Mapping[str, Split]) -> None:
    if "train" not in splits:
        return
    trained_on = {path.resolve() for path in splits["train"].paths}
    for name in splits.keys() - {"train"}:
        for path in splits[name].paths:
            if path.resolve() in trained_on:
                splits[name].findings.warning(
                    "shared-image",
                    f"image {path.name} is in the train split too: its score will be too good",
                    "take it out of one of them",
                )


def _suitable_workers(trainer: L.Trainer | None) -> int:
    if trainer is None or trainer.strategy.root_device.type == "cpu":
        return 0
    return min(8, (os.cpu_count() or 1) // max(1, trainer.world_size))
