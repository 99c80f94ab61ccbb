"""What the values of mask files mean: a class table, and the way from a file to classes.

The table maps numbers or colours to classes. Every pixel is looked up on the CPU, in a table, before anything is
trained: a value that it does not have is an error with file, value and place, and never reaches a device. 255 means
"not labelled" unless it is mapped to a class, as in masks of 0 and 255.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np

from densenet_suite.errors import ConfigError
from densenet_suite.segmentation.class_table import (
    RawValue,
    RawValues,
    check_names,
    colour_name,
    list_values,
    name_classes,
    pack_colours,
    parse_table,
    tally,
)
from densenet_suite.segmentation.scene_files import MaskError, RawMask, read_raw_mask
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

Array = np.ndarray[Any, Any]
_UNMAPPED = 256
_GREY = 0x010101  # times a grey value is that grey as a packed colour
_FAR_APART = 8  # numbers of classes that are nearer than this are no shades, but ids
_MANY = 8  # unknown values from which on they are taken for smoothed edges
_SHOWN = 5


class DecodedMask(NamedTuple):
    """A mask, uint8 [h w] or [k h w], and the number of pixels in it that took the class of the nearest colour."""

    mask: Array
    nearest: int = 0


@dataclass(frozen=True)
class MaskCodec:
    """The meaning of the values in a dataset's masks.

    Attributes:
        classes: what they decode to.
        values: of each class, the numbers, or the colours packed as 0xRRGGBB. Where classes may overlap, these say yes
            in the class's own channel or file, or in a single channel that all classes share; any other says no.
        ignored: values that become 255.
        coloured: whether values are colours.
        nearest: whether a value that is not in the table stands for the nearest one that is.
    """

    classes: MaskClasses
    values: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...] = ()
    coloured: bool = False
    nearest: bool = False

    @classmethod
    def create(
        cls,
        table: Mapping[str, RawValues],
        *,
        ignore: Sequence[RawValue] = (),
        nearest: bool = False,
        multilabel: bool = False,
        given: MaskClasses | None = None,
    ) -> Self:
        """Build the codec from what a user writes.

        Args:
            table: each class with its value in the masks: a number, a colour "#RRGGBB", or several.
            ignore: further values that become 255.
            nearest: take a value that is not in the table for the nearest one that is.
            multilabel: whether classes may overlap.
            given: the classes of a trained model, whose names the table must have and whose order is kept.

        Raises:
            ConfigError: the table contradicts itself, or has other classes than the model.
        """
        parsed = parse_table(table, ignore, multilabel)
        values = parsed.values
        if given is not None:
            check_names(tuple(values), given)
            values = {name: values[name] for name in given.names}
        codec = cls(
            classes=given or name_classes(tuple(values), multilabel, values if parsed.coloured else None),
            values=tuple(values.values()),
            ignored=parsed.ignored,
            coloured=parsed.coloured,
            nearest=nearest,
        )
        if nearest:
            codec.check_distances()
        return codec

    @property
    def far_apart(self) -> bool:
        """Whether values differ so much that one which lies between them can be taken for the nearest."""
        known = sorted({code for group in self.values for code in group} | set(self.ignored))
        return self.coloured or all(np.diff(known) >= _FAR_APART)

    def check_distances(self) -> None:
        """Refuse to take ids for shades.

        Raises:
            ConfigError: values are so close to each other that "nearest" means nothing.
        """
        if not self.far_apart:
            raise ConfigError(
                f"data.nearest_colour with classes whose values differ by less than {_FAR_APART}: "
                "a value between two ids is neither",
                where="data.classes",
                hint="leave data.nearest_colour out, and export the masks without loss, as PNG",
            )

    def decode(self, paths: Sequence[Path]) -> DecodedMask:
        """Read a mask from its file, or from one file for each class.

        Raises:
            DataError: a file cannot be read, or holds what the table does not have.
        """
        raws = [read_raw_mask(path) for path in paths]
        if not self.classes.multilabel:
            return self._look_up(raws[0], self._codes(raws[0]), _entries(self.values, self.ignored, self.coloured))
        sizes = {raw.values.shape[:2] for raw in raws}
        if len(sizes) > 1:
            shown = ", ".join(f"{raw.path} is {raw.values.shape[1]}x{raw.values.shape[0]}" for raw in raws)
            raise MaskError("mask-size", f"the masks of one image differ in size (width x height): {shown}")
        layers = [self._layer(raws, i) for i in range(len(self.classes))]
        return DecodedMask(np.stack([layer.mask for layer in layers]), sum(layer.nearest for layer in layers))

    def _layer(self, raws: Sequence[RawMask], i: int) -> DecodedMask:
        """Return 0, 1 and 255 for a class that others may overlap."""
        k = len(self.classes)
        shared = len(raws) == 1 and k > 1 and (self.coloured or raws[0].values.shape[2] != k)
        raw = raws[i] if len(raws) == k else raws[0]
        own_channel = len(raws) == 1 and k > 1 and not shared
        codes = raw.values[:, :, i] if own_channel else self._codes(raw)
        others = {code for group in self.values for code in group} if shared else set()
        no = tuple((others | {0}) - set(self.values[i]))
        return self._look_up(raw, codes, _entries((no, self.values[i]), self.ignored, self.coloured))

    def _codes(self, raw: RawMask) -> Array:
        """Return one number for each pixel: the value, or the packed colour."""
        channels = raw.values.shape[2]
        if not self.coloured:
            if raw.is_coloured:
                self._refuse_colours(raw)
            if channels == 2 or channels > 4:
                raise MaskError(
                    "mask-channels",
                    f"mask has {channels} channels, and there {'are' if len(self.classes) > 1 else 'is'} "
                    f"{len(self.classes)} {'classes' if len(self.classes) > 1 else 'class'}",
                    where=str(raw.path),
                    hint="a mask of several channels has one for each class: data.multilabel=true, data.classes={...}",
                )
            values = raw.values[:, :, 0]
            known = {code for group in self.values for code in group}
            white = 255 if raw.one_bit and 1 not in known and 255 in known else 1
            return values * np.uint8(white) if raw.one_bit else values
        if raw.palette is not None:
            return pack_colours(raw.palette)[raw.values[:, :, 0]]
        if channels in (3, 4) and raw.values.dtype == np.uint8:
            return pack_colours(raw.values[:, :, :3])
        if channels <= 2 and raw.values.dtype == np.uint8:
            return raw.values[:, :, 0].astype(np.uint32) * np.uint32(_GREY * (255 if raw.one_bit else 1))
        raise MaskError(
            "mask-not-coloured",
            f"mask has {channels} channels of {raw.values.dtype}, and the class table has colours",
            where=str(raw.path),
            hint="give the numbers of the classes: data.classes={road: 1, ...}",
        )

    def _look_up(self, raw: RawMask, codes: Array, entries: tuple[tuple[int, int], ...]) -> DecodedMask:
        found = _apply(codes, entries)
        missing = found == _UNMAPPED
        if raw.nodata is not None:
            found[missing & raw.nodata] = IGNORE
            missing &= ~raw.nodata
        if not missing.any():
            return DecodedMask(found.astype(np.uint8))
        if not self.nearest:
            self._refuse_values(raw, codes, missing)
        found[missing] = self._nearest(codes[missing], entries)
        return DecodedMask(found.astype(np.uint8), int(missing.sum()))

    def _nearest(self, codes: Array, entries: tuple[tuple[int, int], ...]) -> Array:
        """Return the class of the table's value that is nearest to each code; of equals, the first."""
        different, back = np.unique(codes, return_inverse=True)
        known = np.array([code for code, _ in entries])
        distance = ((self._shades(different)[:, None] - self._shades(known)[None]) ** 2).sum(-1)
        return np.array([target for _, target in entries], np.uint16)[distance.argmin(1)][back]

    def _shades(self, codes: Array) -> Array:
        """Return codes as points [n 3] or [n 1] whose distances say how much they differ."""
        codes = codes.astype(np.int64)
        return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1) if self.coloured else codes[:, None]

    def _refuse_values(self, raw: RawMask, codes: Array, missing: Array) -> NoReturn:
        row, column = (int(i[0]) for i in np.nonzero(missing))
        unknown = tally(codes[missing])
        check, hint = self._remedy(raw, sorted(unknown))
        raise MaskError(
            check,
            f"mask holds {list_values(unknown, self.coloured)}, of no class; the first at row {row}, column {column}",
            where=str(raw.path),
            hint=hint,
        )

    def _remedy(self, raw: RawMask, unknown: Sequence[int]) -> tuple[str, str]:
        """Return the kind of fault, and what to do about values that the table does not have."""
        or_nearest = ", or take the nearest: data.nearest_colour=true" if self.far_apart else ""
        if raw.lossy:
            return "mask-lossy", f"JPEG and the like change the values near edges: export masks as PNG{or_nearest}"
        if len(unknown) >= _MANY and self.far_apart:
            return (
                "mask-smoothed",
                f"so many values come from smoothed edges (anti-aliasing), or from a JPEG before it was a "
                f"{raw.path.suffix.lstrip('.').upper()}: export masks without{or_nearest}",
            )
        if raw.palette is not None and not self.coloured:
            colours = ", ".join(
                f"{i} is {colour_name(int(pack_colours(raw.palette)[i]))}" for i in unknown[:_SHOWN] if i < 256
            )
            return "mask-values", f"the file has a palette ({colours}): give colours to data.classes to read it by them"
        known = ", ".join(colour_name(code) if self.coloured else str(code) for group in self.values for code in group)
        return "mask-values", f"give it to a class of data.classes, or to data.ignore; known are {known}"

    def _refuse_colours(self, raw: RawMask) -> NoReturn:
        shown = list_values(tally(pack_colours(raw.values[:, :, :3])), coloured=True)
        raise MaskError(
            "mask-coloured",
            f"mask is in colours where numbers are expected: {shown}",
            where=str(raw.path),
            hint="say which class each colour is: data.classes={road: '#804080', ...}",
        )


@dataclass(frozen=True)
class FileMask:
    """The mask of an image in files: one, or one for each class in the codec's order."""

    codec: MaskCodec
    paths: tuple[Path, ...]

    @property
    def place(self) -> str:
        """The first file, for messages."""
        return str(self.paths[0])

    def decode(self) -> DecodedMask:
        """See `MaskCodec.decode`."""
        return self.codec.decode(self.paths)


@lru_cache(4)  # one for colours takes 32 MB
def _table(entries: tuple[tuple[int, int], ...], size: int) -> Array:
    table = np.full(size, _UNMAPPED, np.uint16)
    for code, target in entries:
        if 0 <= code < size:
            table[code] = target
    return table


def _apply(codes: Array, entries: tuple[tuple[int, int], ...]) -> Array:
    """Return the class of each code, uint16; _UNMAPPED where there is none."""
    sizes = {np.dtype(np.uint8): 1 << 8, np.dtype(np.uint16): 1 << 16, np.dtype(np.uint32): 1 << 24}
    if codes.dtype in sizes:
        return np.take(_table(entries, sizes[codes.dtype]), codes)
    different, back = np.unique(codes, return_inverse=True)
    known = dict(entries)
    targets = np.array([known.get(int(code), _UNMAPPED) for code in different], np.uint16)
    return targets[back].reshape(codes.shape)


def _entries(groups: Sequence[Sequence[int]], ignored: Sequence[int], coloured: bool) -> tuple[tuple[int, int], ...]:
    """Return (value, class) of all that a mask may hold; 255 is ignored if it is no class."""
    entries = {code: i for i, group in enumerate(groups) for code in group}
    skipped = (*ignored,) if coloured else (*ignored, IGNORE)
    return tuple({**dict.fromkeys(skipped, IGNORE), **entries}.items())
