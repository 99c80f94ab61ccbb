"""Which class each number or colour in a mask stands for, as a user writes it down."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from densenet_suite.drawing import class_colour
from densenet_suite.errors import ConfigError
from densenet_suite.registry import did_you_mean
from densenet_suite.segmentation.structures import MaskClasses

Array = np.ndarray[Any, Any]
RawValue = int | str
RawValues = RawValue | Sequence[RawValue]
_SHOWN = 8


@dataclass(frozen=True)
class ValueTable:
    """The values of each class, and those that are ignored: numbers, or colours packed as 0xRRGGBB."""

    values: dict[str, tuple[int, ...]]
    ignored: tuple[int, ...]
    coloured: bool


def parse_table(table: Mapping[str, RawValues], ignore: Sequence[RawValue], multilabel: bool) -> ValueTable:
    """Read what a user writes: each class with a number, a colour "#RRGGBB", or several.

    Raises:
        ConfigError: it contradicts itself.
    """
    groups = {name: _as_tuple(raw) for name, raw in table.items()}
    coloured = _are_colours([raw for group in (*groups.values(), ignore) for raw in group])
    values = {name: tuple(_packed(raw) for raw in group) for name, group in groups.items()}
    ignored = tuple(_packed(raw) for raw in ignore)
    _check_meanings(values, ignored, coloured, multilabel)
    return ValueTable(values, ignored, coloured)


def check_names(names: Sequence[str], given: MaskClasses) -> None:
    """Refuse a table that has other classes than the model.

    Raises:
        ConfigError: it has.
    """
    missing = [name for name in given.names if name not in names]
    unknown = [name for name in names if name not in given.names]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(unknown)}, which the model has not"] if unknown else []
        raise ConfigError(
            f"the class table {' and '.join(parts)}",
            where="data.classes",
            hint=did_you_mean(missing[0], unknown) if missing else f"the model has {', '.join(given.names)}",
        )


def name_classes(
    names: Sequence[str] | Mapping[str, Any], multilabel: bool, colours: Mapping[str, Sequence[int]] | None = None
) -> MaskClasses:
    """Give classes the colours they are drawn in: those of the masks, or some that differ; background is black.

    Raises:
        ConfigError: there are too few or too many.
    """
    drawn = []
    for i, name in enumerate(names):
        code = colours[name][0] if colours else None
        if code is not None:
            drawn.append((code >> 16, code >> 8 & 255, code & 255))
        else:
            drawn.append((0, 0, 0) if name == "background" else class_colour(i))
    try:
        return MaskClasses(tuple(names), tuple(drawn), multilabel)
    except ValueError as error:
        raise ConfigError(
            str(error),
            where="data.classes",
            hint=None if multilabel else "background is a class of its own; a single class needs data.multilabel=true",
        ) from None


def pack_colours(colours: Array) -> Array:
    """Return colours [... 3] of 8 bits as numbers 0xRRGGBB."""
    wide = colours.astype(np.uint32)
    return wide[..., 0] << np.uint32(16) | wide[..., 1] << np.uint32(8) | wide[..., 2]


def list_values(counts: Mapping[int, int], coloured: bool = False) -> str:
    """Return the commonest values, or packed colours, with their pixels, and the number of the rest."""
    ranked = sorted(counts.items(), key=lambda entry: -entry[1])
    named = colour_name if coloured else str
    shown = [f"{named(code)} ({count} pixel{'s' if count > 1 else ''})" for code, count in ranked[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else "")


def tally(codes: Array) -> Counter[int]:
    """Count the pixels of each value."""
    if codes.dtype == np.uint8:
        counts = np.bincount(codes.reshape(-1), minlength=256)
        return Counter({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
    different, counts = np.unique(codes, return_counts=True)
    return Counter(dict(zip(different.tolist(), counts.tolist(), strict=True)))


def colour_name(code: int) -> str:
    """Return a packed colour as it is written."""
    return f"#{int(code):06X}"


def _as_tuple(raw: RawValues) -> tuple[RawValue, ...]:
    return (raw,) if isinstance(raw, int | str) else tuple(raw)


def _are_colours(everything: Sequence[RawValue]) -> bool:
    kinds = {isinstance(raw, str) for raw in everything}
    if len(kinds) > 1:
        raise ConfigError(
            "the class table has numbers and colours",
            where="data.classes, data.ignore",
            hint="masks are read by one of them: numbers such as 3, or colours such as '#804080'",
        )
    return kinds == {True}


def _packed(raw: RawValue) -> int:
    if isinstance(raw, int):
        return raw
    try:
        if len(raw) != 7 or raw[0] != "#":
            raise ValueError
        return int(raw[1:], 16)
    except ValueError:
        raise ConfigError(f"{raw!r} is no colour", where="data.classes", hint="write '#RRGGBB', in quotes") from None


def _check_meanings(
    values: Mapping[str, Sequence[int]], ignored: Sequence[int], coloured: bool, multilabel: bool
) -> None:
    named = colour_name if coloured else str
    owner: dict[int, str] = dict.fromkeys(ignored, "ignore")
    for name, codes in values.items():
        if not codes:
            raise ConfigError(f"class {name!r} has no value", where="data.classes", hint=f"{{{name}: 1}}")
        if multilabel and 0 in codes:
            raise ConfigError(
                f"class {name!r} has the value {named(0)}, which says no where classes may overlap",
                where="data.classes",
                hint="leave the background out: it is where no class is",
            )
        for code in codes:
            other = owner.get(code, name)
            # channels of their own may all say yes with the same value
            if other != name and (other == "ignore" or not multilabel):
                raise ConfigError(
                    f"the value {named(code)} is of {other} and of {name}",
                    where="data.classes, data.ignore",
                    hint="each value has one meaning",
                )
            owner[code] = name
