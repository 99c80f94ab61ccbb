"""What goes wrong in a run without ending it: told in the log when it happens, counted in `summary.json`."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from densenet_suite.errors import SuiteError

logger = logging.getLogger(__name__)


class Faults:
    """Counts faults by kind, over all the times that a run was resumed.

    Args:
        counts: of the run so far.
    """

    def __init__(self, counts: Mapping[str, int] | None = None):
        self.counts = Counter(counts or {})

    def note(self, kind: str, what: str) -> None:
        """Count a fault and say it."""
        self.counts[kind] += 1
        logger.warning("%s", what)


class Storage:
    """Lets a run go on for a while where its files cannot be written: a full disk, a quota, a read-only folder.

    What could not be written is tried again with the next checkpoint; nothing that was there before is lost.

    Args:
        folder: of the run.
        tolerance: how many checkpoints in a row may fail before training stops.
        faults: where each is counted.
    """

    def __init__(self, folder: Path, tolerance: int, faults: Faults):
        self.folder = folder
        self.tolerance = tolerance
        self.faults = faults
        self._failed = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether more checkpoints in a row have failed than are tolerated."""
        return self._failed > self.tolerance

    @contextmanager
    def checkpoint(self, name: str) -> Iterator[None]:
        """Write a checkpoint, or count that it could not be written."""
        try:
            yield
        except OSError as error:
            self._failed += 1
            self.faults.note("unwritten_checkpoints", f"{name} could not be written: {_reason(error)}")
        else:
            self._failed = 0

    @contextmanager
    def side_file(self, name: str) -> Iterator[None]:
        """Write a file that training does not depend on, or count that it could not be written."""
        try:
            yield
        except OSError as error:
            self.faults.note("unwritten_files", f"{name} could not be written: {_reason(error)}")

    def stop(self) -> None:
        """End the run.

        Raises:
            SuiteError: always.
        """
        raise SuiteError(
            f"the last checkpoint could not be written {self._failed} times in a row, "
            f"train.unsaved_checkpoints is {self.tolerance}; "
            "those from before are whole",
            where=str(self.folder),
            hint=f"make room, or make the folder writable; then: densenet-suite resume {self.folder}",
        )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
