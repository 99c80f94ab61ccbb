"""A bounded cache of decoded pictures, in memory or on disk, shared by the processes that read them.

An entry is what decoding a file gave: at which size, with how many bands and of which state of the file is part of its
key. So a sample is the same with a cache and without one, and a file that has changed is read again.

What is full takes nothing more in and drops nothing. Training reads every picture once in an epoch, in another order
each time: the entry that was used longest ago is as likely as any to be needed next, so that dropping it for another
gains nothing and costs a write; and of a cache that holds a share of the pictures, that share is found in every epoch.
"""

import hashlib
import logging
import mmap
import multiprocessing
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from densenet_suite.archives.members import file_that_holds
from densenet_suite.errors import ConfigError

Array = np.ndarray[Any, Any]
CachePlace = Literal["ram", "disk"]

logger = logging.getLogger(__name__)
_VERSION = 1  # of what an entry means: raise it when decoding gives other pixels
_MAGIC = b"DSPIXEL\x01"
_HEADER = np.dtype([("magic", "S8"), ("checksum", "<u8"), ("key", "S16"), ("shape", "<u4", 3), ("unused", "S20")])
_ABANDONED = 3600  # seconds after which a file that was never finished is one that its process left behind


class PixelCache(ABC):
    """Arrays of uint8, [h w] or [h w c], by the file that they were made from."""

    def get(self, path: Path, schema: str, make: Callable[[], Array]) -> Array:
        """Return the array of a file in its present state; make it where it is not held yet. It is not to be changed.

        Args:
            path: of the file.
            schema: what is made of it, and how.
            make: does it.

        Raises:
            Exception: what `make` raises.
        """
        try:
            # before it is read: should it change meanwhile, the entry is of a state that is past
            state = file_that_holds(path).stat()
        except OSError:
            return make()  # which says what is wrong
        name = _digest(os.path.abspath(path), schema, str(_VERSION))
        key = _digest(name.hex(), str(state.st_size), str(state.st_mtime_ns))
        found = self._find(name, key)
        if found is None:
            found = make()
            self._keep(name, key, found)
        return found

    @abstractmethod
    def _find(self, name: bytes, key: bytes) -> Array | None:
        """Return what is held of a file (name) in this state (key)."""

    @abstractmethod
    def _keep(self, name: bytes, key: bytes, array: Array) -> None:
        """Hold it, if there is room."""


class RamCache(PixelCache):
    """Memory that forked processes share; the system frees it when the last of them ends, however it ends.

    Args:
        limit: bytes.
        entries: about how many there will be.

    Raises:
        ConfigError: the system has not that much memory.
    """

    def __init__(self, limit: int, entries: int):
        try:
            self._memory = mmap.mmap(-1, limit)  # taken up as it is written to
        except OSError as error:
            raise ConfigError(
                f"there is no memory for a cache of {limit / 1e9:g} GB: {error}",
                hint="lower data.cache_gb, or data.cache=disk",
            ) from None
        self._limit = limit
        rows = 1 << (4 * entries + 15).bit_length()
        row = np.dtype([("key", "u8", 2), ("offset", "i8"), ("shape", "u4", 3), ("state", "u4")])
        self._rows = np.frombuffer(mmap.mmap(-1, rows * row.itemsize), row)
        self._used = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._lock = multiprocessing.Lock()

    def _find(self, name: bytes, key: bytes) -> Array | None:
        with self._lock:
            row = self._row(key)
            if row is None or row["state"] != _READY:
                return None
            shape, offset = _shape(row["shape"]), int(row["offset"])
        array = np.frombuffer(self._memory, np.uint8, int(np.prod(shape)), offset).reshape(shape)
        array.flags.writeable = False
        return array

    def _keep(self, name: bytes, key: bytes, array: Array) -> None:
        with self._lock:
            row, offset = self._row(key), int(self._used[0])
            if row is None or row["state"] != _FREE or offset + array.size > self._limit:
                return
            self._used[0] += array.size
            row["key"], row["offset"], row["state"] = np.frombuffer(key, np.uint64), offset, _TAKEN
            row["shape"] = (*array.shape, 0)[:3]
        np.frombuffer(self._memory, np.uint8, array.size, offset)[:] = array.reshape(-1)
        with self._lock:
            row["state"] = _READY

    def _row(self, key: bytes) -> Any:
        """Return the row of a key, or the free one where it belongs; None where all are taken."""
        wanted = np.frombuffer(key, np.uint64)
        start = int(wanted[0]) % len(self._rows)
        for i in range(len(self._rows)):
            row = self._rows[(start + i) % len(self._rows)]
            if row["state"] == _FREE or (row["key"] == wanted).all():
                return row
        return None


_FREE, _TAKEN, _READY = 0, 1, 2


class DiskCache(PixelCache):
    """A folder of files, one for each entry, that later runs find again. Deleting the folder is safe at any time.

    A file is written beside its place and renamed, so that processes never see half of one, and it holds a checksum: it
    is made again where a crash or the drive has damaged it.

    Args:
        folder: made if it is not there.
        limit: bytes of the files in it.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder = folder
        self._limit = limit
        self._writes = True
        folder.mkdir(parents=True, exist_ok=True)
        self._used = multiprocessing.Value("q", _tidy(folder))

    def _find(self, name: bytes, key: bytes) -> Array | None:
        path = self.folder / name.hex()
        try:
            content = np.fromfile(path, np.uint8)
        except OSError:
            return None
        try:
            header = content[: _HEADER.itemsize].view(_HEADER)[0]
            body = content[_HEADER.itemsize :]
            sound = header["magic"] == _MAGIC and header["checksum"] == _checksum(content)
            shape = _shape(header["shape"])
            array = body[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
        except (ValueError, IndexError):  # it is cut off
            sound = False
        if not sound:
            logger.warning("a damaged entry of the cache is made again: %s", path)
            return None
        return array if _padded(header["key"]) == key else None

    def _keep(self, name: bytes, key: bytes, array: Array) -> None:
        content = np.zeros(_HEADER.itemsize + -(-array.size // 8) * 8, np.uint8)
        body = content[_HEADER.itemsize :]
        body[: array.size] = array.reshape(-1)
        header = content[: _HEADER.itemsize].view(_HEADER)
        header[0] = (_MAGIC, 0, key, (*array.shape, 0)[:3], b"")
        header["checksum"] = _checksum(content)
        with self._used.get_lock():
            if not self._writes or self._used.value + content.size > self._limit:
                return
            self._used.value += content.size
        path = self.folder / name.hex()
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            content.tofile(temporary)
            os.replace(temporary, path)
        except OSError as error:
            self._writes = False
            logger.warning("nothing more is cached in %s: %s", self.folder, error)
            with suppress(OSError):
                temporary.unlink()


def cache_folder(root: Path) -> Path:
    """Return where pictures of a dataset are cached: below $XDG_CACHE_HOME, or ~/.cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = root.resolve()
    return home / "densenet_suite" / f"{root.name}-{_digest(str(root)).hex()[:8]}"


def _tidy(folder: Path) -> int:
    """Remove what processes that were killed left unfinished; return the bytes of the rest."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process was faster
                state = entry.stat()
                if entry.name.startswith(".") and state.st_mtime < time.time() - _ABANDONED:
                    os.unlink(entry)
                else:
                    total += state.st_size
    return total


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _checksum(content: Array) -> np.uint64:
    """Return the sum of what stands behind it, eight bytes at a time: damage is to be noticed, not malice, and fast."""
    return content[16:].view(np.uint64).sum(dtype=np.uint64)


def _shape(stored: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in stored if side)


def _padded(text: bytes) -> bytes:
    """Return 16 bytes, of which NumPy drops zeros at the end."""
    return text.ljust(16, b"\0")
