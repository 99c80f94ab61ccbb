"""TensorBoard's files, whose loss ends no run."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from densenet_suite.training.faults import Storage


class OptionalTensorBoard(TensorBoardLogger):
    """Begins another file of events after one that could not be written.

    Args:
        folder: of the files.
        storage: counts what could not be written.
    """

    def __init__(self, folder: str, storage: Storage):
        super().__init__(folder, name="", version="tensorboard")
        self.storage = storage

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See the base class."""
        self._writing(super().log_metrics, metrics, step)

    @rank_zero_only
    def save(self) -> None:
        """See the base class."""
        self._writing(super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """See the base class."""
        self._writing(super().finalize, status)

    def _writing(self, write: Any, *arguments: Any) -> None:
        done = False
        with self.storage.side_file("tensorboard"):
            write(*arguments)
            done = True
        if not done:
            self._experiment = None
