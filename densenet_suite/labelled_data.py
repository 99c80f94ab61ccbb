"""What datasets of every task have in common: splits that are read when they are asked for, hold-out, and loaders."""

import logging
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

import lightning as L
import torch
from torch.utils.data import DataLoader

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings

logger = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


class Split(Protocol):
    """Labelled images of one split; `findings` are what was mended while reading it."""

    @property
    def findings(self) -> Findings:
        """What was noticed."""

    @property
    def paths(self) -> Sequence[Path]:
        """The image files."""

    def __len__(self) -> int:
        """Return the number of images."""


S = TypeVar("S", bound=Split)


class LabelledData(L.LightningDataModule, ABC, Generic[S]):
    """Train, val and test splits of a dataset.

    Args:
        root: folder of the dataset.
        batch: images per process and step.
        holdout: share of the training images that is validated on where there is no val split.
        workers: processes that read images; None for none where the CPU trains, and up to 8 beside a GPU. Their number
            changes nothing but the speed.
    """

    def __init__(self, root: str | Path, batch: int, holdout: float, workers: int | None):
        super().__init__()
        self.root = Path(root)
        self.batch = batch
        self.holdout = holdout
        self.workers = workers
        self._read: dict[str, S] = {}

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

    def loading(self) -> dict[str, Any]:
        """Return the arguments that all loaders share."""
        workers = _suitable_workers(self.trainer) if self.workers is None else self.workers
        return {
            "num_workers": workers,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": workers > 0,
            "worker_init_fn": _outlive_one_signal,
        }

    def _get(self, name: str) -> S | None:
        if name in self._read:
            return self._read[name]
        if name != "test" and self.holdout > 0 and not self.has_files("val"):
            self._hold_out()
        elif self.has_files(name):
            self._read[name] = self.read_split(name)
        return self._read.get(name)

    def _hold_out(self) -> None:
        """Divide the training split, where it can be, into one to train on and one to validate on."""
        if not self.has_files("train"):
            return
        train = self._read["train"] = self.read_split("train")
        if len(train) > 1:
            self._read["train"], self._read["val"] = self.divide(train)
            logger.info(
                "no val split under %s: %d of %d training images are held out to validate on (data.holdout=%s)",
                self.root,
                len(self._read["val"]),
                len(train),
                self.holdout,
            )


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


def _outlive_one_signal(worker: int) -> None:
    """Leave the first signal that ends a run to the process that trains, which still needs its worker."""

    def wait(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), wait)


def _suitable_workers(trainer: L.Trainer | None) -> int:
    if trainer is None or trainer.strategy.root_device.type == "cpu":
        return 0
    return min(8, (os.cpu_count() or 1) // max(1, trainer.world_size))
