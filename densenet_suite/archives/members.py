"""Files inside uncompressed tar archives, read where they lie: nothing is unpacked.

A member has a path of its own, `<archive>.tar/<offset>+<size>/<name>`, so that it can stand wherever a file is named:
in a labelled set, in a message, in another process. Only what opens files has to know, through `open_binary`. Any
member is read by one seek, in any order, and no handle is kept.

Archives are not trusted: members that are no plain files, whose names lead elsewhere, or that reach beyond the end of
the archive are refused.

Reference for the layout of samples: https://github.com/webdataset/webdataset (key.ext, up to the first dot).
"""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from densenet_suite.errors import DataError

_PLACE = re.compile(r"(\d{1,18})\+(\d{1,18})")
_LARGEST = 2**30  # bytes of a member
_MOST = 5_000_000  # members of an archive
_LONGEST = 1000  # characters of a name


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name there, and where its bytes are."""

    archive: Path
    name: str
    offset: int
    size: int

    @property
    def path(self) -> Path:
        """The path by which `open_binary` finds it."""
        return self.archive / f"{self.offset}+{self.size}" / self.name

    def __str__(self) -> str:
        return f"{self.archive.name}!{self.name}"


def member_of(path: Path) -> Member | None:
    """Return the member of an archive that a path means; None for an ordinary file."""
    if ".tar" not in str(path):
        return None
    for place in path.parents:
        found = _PLACE.fullmatch(place.name)
        if found and place.parent.suffix == ".tar" and place.parent.is_file():
            return Member(place.parent, path.relative_to(place).as_posix(), int(found[1]), int(found[2]))
    return None


def open_binary(path: Path) -> BinaryIO:
    """Open a file, or a member of an archive, to read.

    Raises:
        OSError: it is not there, or the archive ends before the member does.
    """
    member = member_of(path)
    if member is None:
        return path.open("rb")
    if member.size > _LARGEST:
        raise OSError(f"{member} has {member.size:,} bytes, the limit is {_LARGEST:,}")
    with member.archive.open("rb") as archive:
        archive.seek(member.offset)
        content = archive.read(member.size)
    if len(content) < member.size:
        raise OSError(f"{member.archive.name} ends before {member.name} does")
    return io.BytesIO(content)


def file_size(path: Path) -> int:
    """Return the bytes of a file, or of a member of an archive.

    Raises:
        OSError: it is not there.
    """
    member = member_of(path)
    return path.stat().st_size if member is None else member.size


def file_that_holds(path: Path) -> Path:
    """Return the file on the disk: the path itself, or the archive of a member."""
    member = member_of(path)
    return path if member is None else member.archive


def scan(archive: Path) -> list[Member]:
    """Return the files of an archive in their order, from its headers; folders are passed over.

    Raises:
        DataError: it is damaged, or holds what a dataset does not: links, devices, sparse files, names that lead out.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            return list(_members(archive, tar))
    except (OSError, tarfile.TarError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        what = "a header asks for too much memory" if isinstance(error, MemoryError) else error
        raise DataError(f"archive cannot be read: {what}", where=str(archive)) from None


def _members(archive: Path, tar: tarfile.TarFile) -> Iterator[Member]:
    end = archive.stat().st_size
    last = -1
    for number, entry in enumerate(tar):
        if entry.offset <= last or number >= _MOST:
            raise DataError("archive has headers without end", where=str(archive))
        last = entry.offset
        if entry.isdir():
            continue
        if not entry.isreg() or entry.issparse():
            raise DataError(f"member {entry.name[:80]!r} is no plain file", where=str(archive))
        if not _is_plain(entry.name):
            raise DataError(f"member {entry.name[:80]!r} has a name that leads out of the archive", where=str(archive))
        if not 0 <= entry.size <= min(_LARGEST, end - entry.offset_data):
            raise DataError(
                f"member {entry.name[:80]!r} is said to have {entry.size:,} bytes, more than there are",
                where=str(archive),
            )
        yield Member(archive, entry.name.removeprefix("./"), entry.offset_data, entry.size)


def _is_plain(name: str) -> bool:
    parts = name.removeprefix("./").split("/")
    return len(name) <= _LONGEST and not any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts)


def shard_groups(paths: Sequence[Path]) -> list[list[int]] | None:
    """Return the places of files by the archive that they lie in; None where some are ordinary files."""
    groups: dict[Path, list[int]] = {}
    archives = {}  # of parents, of which a set has few
    for i, path in enumerate(paths):
        folder = Path(*path.parts[: next((n for n, part in enumerate(path.parts, 1) if part.endswith(".tar")), 0)])
        if folder not in archives:
            archives[folder] = folder.suffix == ".tar" and folder.is_file()
        if not archives[folder]:
            return None
        groups.setdefault(folder, []).append(i)
    return list(groups.values())
