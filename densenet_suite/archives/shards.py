"""Datasets in sharded tars, in the layout of webdataset: `shards/<split>-000000.tar` and so on, and an index.

A sample is the files of one key: `key.jpg` (or another picture) and `key.json`, and for masks `key.mask.png`, or
`key.mask-0.png` and so on for classes that overlap. `tar` and the webdataset package read them as they are.
`index.json` says where each file begins, so that a sample is one seek away, and which checksum a shard has; tars
without an index are indexed by their headers.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from densenet_suite.archives.members import Member, scan
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings

FOLDER = "shards"
INDEX = "index.json"
VERSION = 1
_INDEX_BYTES = 2**31


@dataclass(frozen=True)
class ShardSample:
    """The files of one key, by what follows the first dot of their names, such as "jpg" or "mask.png"."""

    key: str
    files: Mapping[str, Member]


@dataclass(frozen=True)
class ShardSplit:
    """The shards of a split.

    Attributes:
        folder: that they are in.
        archives: in their order.
        classes: names of the classes with their ids, where the index knows them.
    """

    folder: Path
    archives: tuple[Path, ...]
    classes: Mapping[str, int] | None = None

    @classmethod
    def of_archives(cls, folder: Path, archives: Sequence[Path]) -> Self:
        """Return the split of some tars of a folder.

        Raises:
            DataError: there are none, or the index is damaged.
        """
        if not archives:
            raise DataError("there are no tars of this name", where=str(folder))
        return cls(folder, tuple(archives), _index(folder).get("classes"))

    def __str__(self) -> str:
        return f"sharded tars, as there is {self.archives[0]}"

    def samples(self) -> Iterator[ShardSample]:
        """Yield the samples in the order of the shards.

        Raises:
            DataError: a shard is damaged, or is not the one that the index was made for.
        """
        known = _index(self.folder)
        for archive in self.archives:
            yield from _group(archive, _indexed(archive, known) or scan(archive))


def find_shards(root: Path, aliases: Sequence[str]) -> ShardSplit | None:
    """Find the shards of a split below a dataset's folder, in `shards/` or in the folder itself.

    Raises:
        DataError: the index is damaged.
    """
    for folder in (root / FOLDER, root):
        for alias in aliases:
            archives = sorted(folder.glob(f"{alias}-*.tar")) if folder.is_dir() else []
            if archives:
                return ShardSplit.of_archives(folder, archives)
    return None


def verify(archives: Iterable[Path], findings: Findings) -> None:
    """Hold shards against their checksums in the index beside them.

    Args:
        archives: the tars.
        findings: takes those that have changed (errors), and those without a checksum (a note).
    """
    for archive in archives:
        entry = _index(archive.parent).get("shards", {}).get(archive.name, {})
        if "sha256" not in entry:
            findings.note("shard-unverified", f"{archive} has no checksum in {INDEX}")
            continue
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry["sha256"]:
            findings.error("shard-changed", f"{archive} is not the one that the index was made for", "copy it again")


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _INDEX_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        shards, classes = content["shards"], content["classes"]
        sound = content["version"] == VERSION and isinstance(shards, dict)
        if not sound or not (classes is None or all(_is_whole(key) for key in classes.values())):
            raise ValueError("it is of another version or kind")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"index of the shards cannot be read: {error}", where=str(path), hint="without it the tars are scanned"
        ) from None
    return dict(content)


def _indexed(archive: Path, index: Mapping[str, Any]) -> list[Member] | None:
    """Return the members of a shard as the index has them; None where it does not know the shard."""
    entry = index.get("shards", {}).get(archive.name)
    if entry is None:
        return None
    size = archive.stat().st_size
    try:
        members = [Member(archive, str(name), offset, length) for name, offset, length in entry["members"]]
        inside = all(
            _is_whole(m.offset) and _is_whole(m.size) and m.offset >= 0 and 0 <= m.size <= size - m.offset
            for m in members
        )
        named = all(
            ".." not in m.name.split("/") and not m.name.startswith("/") and "\0" not in m.name for m in members
        )
        sound = entry["bytes"] == size and inside and named
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise DataError(
            "shard is not the one that the index was made for",
            where=str(archive),
            hint=f"copy it again, or delete {INDEX}",
        )
    return members


def _group(archive: Path, members: Sequence[Member]) -> Iterator[ShardSample]:
    """Group files by their keys, which end at the first dot behind the folders."""
    files: dict[str, dict[str, Member]] = {}
    for member in members:
        folders, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not stem:  # hidden files, such as those that macOS adds
            continue
        found = files.setdefault(f"{folders}/{stem}".lstrip("/"), {})
        if ending.lower() in found:
            raise DataError(f"member {member.name!r} is there twice", where=str(archive))
        found[ending.lower()] = member
    for key, group in files.items():
        yield ShardSample(key, group)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
