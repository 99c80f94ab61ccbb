"""`classes.json` in a dataset's folder: what the values of its masks mean, so that nobody has to type it again.

It holds what a config would: {"classes": {"background": 0, "cell": 255}, "ignore": [], "multilabel": false}. A config
that has `data.classes` itself is not overruled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.files import write_json
from densenet_suite.segmentation.class_table import RawValue, RawValues

FILE_NAME = "classes.json"
_BYTES = 1_048_576


@dataclass(frozen=True)
class ClassFile:
    """The contents: each class with its value or values, values that are ignored, and whether classes overlap."""

    classes: Mapping[str, RawValues]
    ignore: Sequence[RawValue] = ()
    multilabel: bool = False

    def write(self, root: Path) -> None:
        """Write the file into a dataset's folder."""
        content = {"classes": self.classes, "ignore": list(self.ignore), "multilabel": self.multilabel}
        write_json(root / FILE_NAME, content)


def read_class_file(root: Path, *, multilabel: bool) -> ClassFile | None:
    """Return what a dataset's folder says of its classes; None where it says nothing.

    Args:
        root: the folder.
        multilabel: whether the config says that classes may overlap.

    Raises:
        ConfigError: the file says otherwise.
        DataError: it cannot be read, or does not hold what it should.
    """
    path = root / FILE_NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _BYTES:
            raise DataError(f"file has {path.stat().st_size:,} bytes, the limit is {_BYTES:,}", where=str(path))
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"file cannot be read: {error}", where=str(path)) from None
    content = content if isinstance(content, dict) else {}
    classes, ignore, overlap = content.get("classes"), content.get("ignore", []), content.get("multilabel", False)
    if (
        not isinstance(classes, dict)
        or not isinstance(overlap, bool)
        or not isinstance(ignore, list)
        or not all(map(_is_raw, (*classes.values(), ignore)))
    ):
        raise DataError(
            "file does not hold classes with their values",
            where=str(path),
            hint='{"classes": {"background": 0, "cell": 255}, "ignore": [], "multilabel": false}',
        )
    if overlap != multilabel:
        raise ConfigError(
            f"{path} says that classes {'may' if overlap else 'do not'} overlap",
            where="data.multilabel",
            hint=f"data.multilabel={str(overlap).lower()}",
        )
    return ClassFile(classes, ignore, overlap)


def _is_raw(value: object) -> bool:
    """Say whether something is a number, a colour, or a list of these."""
    several = value if isinstance(value, list) else [value]
    return all(isinstance(one, int | str) and not isinstance(one, bool) for one in several)
