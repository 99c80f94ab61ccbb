"""Files of checkpoints: a checksum stands behind the content, and is verified before anything of it is used.

torch notices a file that was cut off, but not a flipped bit. The checksum is a last line that torch does not look at,
so the file is read by `torch.load` as ever.
"""

import hashlib
import os
from pathlib import Path
from typing import IO, Any, cast

import torch

from densenet_suite.errors import ConfigError
from densenet_suite.files import atomic_write

_MARK = b"\nsha256 "
_TRAILER = len(_MARK) + 64
_PIECE = 1 << 20


def write_checkpoint(path: Path, checkpoint: dict[str, Any], former: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: of the file.
        checkpoint: its content.
        former: where the file that is replaced stays, once the new one is safe on the disk; None to let it go.

    Raises:
        OSError: it cannot be written, as where the disk is full; what was there before is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        hashed = _HashedFile(file)
        try:
            torch.save(checkpoint, cast(IO[bytes], hashed))
        except RuntimeError:  # how torch tells that a write failed
            if hashed.fault is not None:
                raise hashed.fault from None
            raise
        file.write(_MARK + hashed.digest.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())
        if former is not None and path.exists():
            _keep(path, former)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing in it is run.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        _verify(path)
        return dict(torch.load(path, map_location=map_location, weights_only=True))
    except FileNotFoundError:
        raise ConfigError("there is no checkpoint to continue from", where=str(path)) from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"checkpoint is damaged: {reason}", where=str(path)) from error


class _HashedFile:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.digest = hashlib.sha256()
        self.fault: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _verify(path: Path) -> None:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END) - _TRAILER
        file.seek(max(0, size))
        trailer = file.read()
        if size < 0 or not trailer.startswith(_MARK):
            raise ValueError("it does not end with its checksum, so it was cut off or not written by this version")
        file.seek(0)
        digest = hashlib.sha256()
        while size > 0 and (piece := file.read(min(size, _PIECE))):
            digest.update(piece)
            size -= len(piece)
    if trailer[len(_MARK) :] != digest.hexdigest().encode():
        raise ValueError("its checksum does not fit its content")


def _keep(path: Path, former: Path) -> None:
    """Give a file a second name in one step, so that at every moment there is one under its first."""
    link = former.with_name(f".{former.name}.tmp-{os.getpid()}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # some file systems have no second names
        os.replace(path, former)
    else:
        os.replace(link, former)
