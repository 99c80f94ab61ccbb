"""The yaml of a YOLO dataset, which names its classes and splits. This module needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from densenet_suite.errors import DataError

YAML_BYTES = 262_144  # thousands of class names fit into it
_DEPTH = 16


def load_data_yaml(path: Path) -> Mapping[str, Any]:
    """Read the yaml of a YOLO dataset. Aliases and deep nesting, which make a small file endless, are refused.

    Raises:
        DataError: it cannot be read, or is no mapping.
    """
    where = str(path)
    try:
        if path.stat().st_size > YAML_BYTES:
            raise DataError(f"yaml has {path.stat().st_size:,} bytes, the limit is {YAML_BYTES:,}", where=where)
        text = path.read_text(encoding="utf-8-sig")
        _check_events(text, where)
        content = yaml.safe_load(text)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError("yaml does not exist", where=where) from None
    except yaml.MarkedYAMLError as error:
        place = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DataError(f"yaml is not valid: {error.problem}", where=where + place) from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"yaml cannot be read: {error}", where=where) from None
    if not isinstance(content, dict):
        raise DataError(f"yaml holds a {type(content).__name__}, not the keys names, train, val", where=where)
    return content


def _check_events(text: str, where: str) -> None:
    """Refuse what would make reading a small file endless: aliases, and deep nesting, whose cost is its square."""
    depth = 0
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            raise DataError("yaml holds an alias (*name)", where=where, hint="write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise DataError(f"yaml is nested more than {_DEPTH} deep", where=where)
