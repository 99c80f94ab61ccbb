"""Files that are whole or absent: written beside their target, flushed to the disk, then renamed onto it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_TEMPORARY = ".tmp-"


@contextmanager
def atomic_write(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` only when the block ends without an error.

    A reader, a crash or a full disk meets the old file or the new one, never half of either.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{_TEMPORARY}{os.getpid()}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself is durable only once the directory is flushed
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed while they wrote have left below a folder that no other one writes to."""
    for path in folder.rglob(f".*{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_write(path, "w") as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    """Write a JSON file atomically. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
