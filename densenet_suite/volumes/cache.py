"""Unpacked volumes, kept while there is room: a compressed one is not unpacked again for each of its slices."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Stamp = tuple[str, int, int]

CACHE_BYTES = 2**30  # in each process


class VolumeCache:
    """Arrays by file, the longest unused ones dropped beyond a number of bytes; the newest is always kept.

    It may be asked by several threads at once, of which one unpacks and the others wait.
    """

    def __init__(self, limit: int = CACHE_BYTES):
        self.limit = limit
        self._arrays: OrderedDict[Stamp, Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path, load: Callable[[], Array]) -> Array:
        """Return the array of a file, which `load` reads where it is not there or the file has changed."""
        key = stamp(path)
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
            array = load()
            self._arrays[key] = array
            while len(self._arrays) > 1 and sum(each.nbytes for each in self._arrays.values()) > self.limit:
                self._arrays.popitem(last=False)
            return array


def stamp(path: Path) -> Stamp:
    """Return what changes when a file or folder does: path, size and time of the last change."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


VOLUMES = VolumeCache()
