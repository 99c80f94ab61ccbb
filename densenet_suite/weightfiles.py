"""Weight files of any origin to named tensors, without running anything that they contain.

Read are safetensors, PyTorch files (through the restricted unpickler, never the full one) and Lightning checkpoints.
The wrappers that training scripts put around a state dict are taken off.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from densenet_suite.errors import ConfigError

# where scripts keep the state dict, the averaged weights before the raw ones
_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state",
    "model_state_dict",
    "model",
)


@dataclass
class LoadReport:
    """What became of the file's tensors (left out) and of the network's (loaded, adapted, newly initialised)."""

    source: str
    loaded: int = 0
    adapted: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    initialized: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"weights from {self.source}: {self.loaded} tensors loaded"]
        for title, names in (
            ("adapted", self.adapted),
            ("left out", self.left_out),
            ("newly initialised", self.initialized),
        ):
            if names:
                shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                lines.append(f"  {title}: {shown}")
        return "\n".join(lines)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Read a weight file to tensors by name, on the CPU.

    Raises:
        ConfigError: the file is missing or damaged, holds no tensors, or needs code to be unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("weight file does not exist", where=str(path))
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ConfigError(f"weight file is damaged: {error}", where=str(path)) from error
    return _tensors(_unpickle(path), path)


def _unpickle(path: Path) -> Any:
    try:
        # timm's training checkpoints carry the parsed command line, an object of plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise ConfigError(
                f"weight file needs code to be unpickled, which could do anything, and is refused: {code[1]}",
                where=str(path),
                hint="where you trust its origin, load it yourself and save the state dict alone with safetensors",
            ) from None
        raise ConfigError(
            "weight file is damaged or not a PyTorch file", where=str(path), hint="download it again"
        ) from error
    except Exception as error:  # damaged bytes fail in any way they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"weight file is damaged or not a PyTorch file: {reason}",
            where=str(path),
            hint="download it again",
        ) from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            return _tensors(content[wrapper], path)
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise ConfigError("file holds no named tensors", where=str(path), hint="give a state dict")
    return tensors


def under_prefix(tensors: Mapping[str, Tensor], fingerprint: str) -> tuple[dict[str, Tensor], list[str]] | None:
    """Find the network that a tensor's name gives away, whatever wrappers stand before it.

    Returns:
        the tensors that share the prefix of the first name ending in `fingerprint`, without it, and the names of the
        rest; None where no name ends so.
    """
    found = [name for name in tensors if name == fingerprint or name.endswith(f".{fingerprint}")]
    if not found:
        return None
    prefix = min(found, key=len).removesuffix(fingerprint)
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return inside, [name for name in tensors if not name.startswith(prefix)]
