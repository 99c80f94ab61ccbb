"""Pictures that cannot be decoded, under the policy `data.damaged: skip`: which they are, and how many are too many."""

from collections.abc import Sequence
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

from densenet_suite.errors import DataError

SHARE = 0.01  # of the pictures of a split that may be damaged; one may always be
DAMAGE_HINT = "copy the files again, or take them out of the dataset"


def too_many(damaged: int, of: int) -> str | None:
    """Return what is wrong where so many pictures are damaged that the rest is another dataset, else None."""
    if damaged <= max(1, SHARE * of):
        return None
    return f"{damaged} of {of} pictures cannot be decoded, more than the {SHARE:.0%} that data.damaged=skip leaves out"


class DamagedImages:
    """Which pictures of a split turned out to be damaged while they were used; all processes that read them share it.

    Args:
        split: its name.
        paths: of its pictures.
    """

    def __init__(self, split: str, paths: Sequence[Path]):
        self.split = split
        self.paths = paths
        self._found = RawArray("B", len(paths))

    def add(self, image: int) -> None:
        """Note a picture, by its place among the paths.

        Raises:
            DataError: they are too many now.
        """
        self._found[image] = 1
        found = self.found
        problem = too_many(len(found), len(self.paths))
        if problem:
            raise DataError(f"{problem}, {self.paths[image].name} being the last", where=self.split, hint=DAMAGE_HINT)

    @property
    def flags(self) -> bytes:
        """A byte for each path, 1 where it is damaged."""
        return bytes(self._found)

    def merge(self, flags: bytes) -> None:
        """Take over what was noted elsewhere."""
        self._found[:] = [max(*pair) for pair in zip(self._found, flags, strict=True)]

    @property
    def found(self) -> list[Path]:
        """What was noted so far, in the order of the paths."""
        return [path for path, found in zip(self.paths, self.flags, strict=True) if found]
