"""One self-contained file for a trained model: its tensors, and a card that says how to build and feed the network.

The file is a safetensors file, so nothing in it can run; the card is JSON in its header, and can be read without torch.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_suite.errors import ConfigError
from densenet_suite.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_KEY = "densenet_suite"
_MAX_HEADER = 100_000_000  # bytes, safetensors' own limit


def write_model_file(path: Path | str, tensors: Mapping[str, "Tensor"], card: Mapping[str, Any]) -> None:
    """Write tensors and card; the old file stays until the new one is whole."""
    from safetensors.torch import save

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_KEY: json.dumps({"format": FORMAT, **card}, ensure_ascii=False, allow_nan=False)}
    with atomic_write(path) as file:
        file.write(save(content, metadata))


def read_card(path: Path | str) -> dict[str, Any] | None:
    """Read the card alone, None where the file is not a model file of ours.

    Raises:
        ConfigError: the file was written by a newer version.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _MAX_HEADER else {}
        text = header["__metadata__"][_KEY]
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return None
    card: dict[str, Any] = json.loads(text)
    if card["format"] > FORMAT:
        raise ConfigError(
            f"model file has format {card['format']}, this version reads up to {FORMAT}",
            where=str(path),
            hint="pip install --upgrade densenet-suite",
        )
    return card


def model_file(place: Path | str) -> Path:
    """Return the model file that a run folder or a path means.

    Raises:
        ConfigError: there is none.
    """
    place = Path(place)
    if place.is_dir():
        inside = place / "weights" / "best.safetensors"
        if inside.is_file():
            return inside
        raise ConfigError(
            "run folder holds no trained model",
            where=str(inside),
            hint="let the training finish its first epoch",
        )
    if not place.is_file():
        raise ConfigError("no such run folder or model file", where=str(place))
    return place
