"""Datasets written as sharded tars; see `shards` for their layout."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from densenet_suite.archives.members import scan
from densenet_suite.archives.shards import FOLDER, INDEX, VERSION
from densenet_suite.files import write_json
from densenet_suite.findings import Findings
from densenet_suite.picture_files import picture_bytes, picture_names


def write_samples(
    splits: Mapping[str, Sequence[Path]],
    labels_of: Callable[[str, int], Mapping[str, bytes]],
    root: Path,
    classes: Mapping[str, int],
    limit: int,
) -> dict[str, Findings]:
    """Write splits as sharded tars with an index, and return what was lost of each.

    Args:
        splits: the pictures of each.
        labels_of: returns the files of labels of a picture, by split and number: content by what follows the key and a
            dot in the file's name, such as "json".
        root: folder of the dataset.
        classes: their ids by name, for the index.
        limit: bytes of a shard; a larger sample has one of its own.

    Raises:
        DataError: a picture has no name that can be written.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True)
    lost, archives = {}, []
    for split, paths in splits.items():
        lost[split] = Findings(str(folder))
        names = picture_names(paths, lost[split], by_stem=True)
        with ArchiveWriter(folder, split, limit) as writer:
            for i, (path, name, key) in enumerate(zip(paths, names, sample_keys(names, lost[split]), strict=True)):
                labels = {f"{key}.{ending}": content for ending, content in labels_of(split, i).items()}
                writer.add({f"{key}{PurePosixPath(name).suffix.lower()}": picture_bytes(path), **labels})
        archives += writer.archives
    write_index(folder, archives, classes)
    return lost


class ArchiveWriter:
    """Writes samples, groups of files that belong together, into archives of limited size, inside a `with` block.

    Args:
        folder: of the archives.
        stem: of their names: `<stem>-000000.tar` and so on.
        limit: bytes from which on the next sample goes into a new archive.
    """

    def __init__(self, folder: Path, stem: str, limit: int):
        self.folder, self.stem, self.limit = folder, stem, limit
        self.archives: list[Path] = []
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, files: Mapping[str, bytes]) -> None:
        """Write the files of one sample, by their names, into one archive."""
        if self._tar is None or self._tar.offset + sum(len(content) + 1024 for content in files.values()) > self.limit:
            self._close()
            self.archives.append(self.folder / f"{self.stem}-{len(self.archives):06d}.tar")
            self._tar = tarfile.open(self.archives[-1], "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 closed below
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            self._tar.addfile(entry, io.BytesIO(content))

    def _close(self) -> None:
        """End the archive that is being written, and see it on the disk."""
        if self._tar is None:
            return
        self._tar.close()
        with self.archives[-1].open("rb") as file:
            os.fsync(file.fileno())
        self._tar = None


def write_index(folder: Path, archives: Sequence[Path], classes: Mapping[str, int] | None) -> None:
    """Write `index.json`: of each shard its bytes, its SHA-256 and its members; and the classes."""
    entries = {}
    for archive in archives:
        with archive.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        members = [[member.name, member.offset, member.size] for member in scan(archive)]
        entries[archive.name] = {"bytes": archive.stat().st_size, "sha256": checksum, "members": members}
    write_json(folder / INDEX, {"version": VERSION, "classes": classes, "shards": entries})


def sample_keys(names: Sequence[str], lost: Findings) -> list[str]:
    """Return the key of each picture: its name without ending and without the dots that would end it, no two alike."""
    keys: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem = PurePosixPath(name).with_suffix("")
        wanted = stem.with_name(stem.name.replace(".", "_")).as_posix()
        key, number = wanted, 2
        while key in taken:
            key, number = f"{wanted}_{number}", number + 1
        if key != stem.as_posix():
            lost.warning("picture-renamed", f"picture {name!r} has the key {key!r}")
        taken.add(key)
        keys.append(key)
    return keys
