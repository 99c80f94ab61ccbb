"""The class table of a dataset: as a user gives it, or as its training masks show it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.geo.geojson_rasters import GeoJsonFiles
from densenet_suite.segmentation.class_table import RawValue, RawValues, list_values, name_classes, pack_colours, tally
from densenet_suite.segmentation.coco_masks import BACKGROUND, read_categories
from densenet_suite.segmentation.geojson_masks import read_class_names
from densenet_suite.segmentation.layout import CocoFile, SplitFiles
from densenet_suite.segmentation.masks import MaskCodec
from densenet_suite.segmentation.pairing import PairedFiles
from densenet_suite.segmentation.scene_files import MaskError, read_raw_mask
from densenet_suite.segmentation.structures import IGNORE, MaskClasses
from densenet_suite.volumes.scenes import slice_paths

Array = np.ndarray[Any, Any]
FOREGROUND = "foreground"
_MOST_CLASSES = 64
_READERS = 8
_GIVE_CLASSES = "say what they mean: data.classes={background: 0, road: 1, ...}"


def find_codec(
    files: SplitFiles,
    *,
    classes: Mapping[str, RawValues] | None = None,
    ignore: Sequence[RawValue] = (),
    nearest: bool = False,
    multilabel: bool = False,
    given: MaskClasses | None = None,
) -> MaskCodec:
    """Return the codec that all splits of a dataset share.

    Args:
        files: the training split; where there is none, the one that is evaluated.
        classes: each class with its value or values in the masks; None to take what the masks show.
        ignore: further values that become 255.
        nearest: take a value that is not in the table for the nearest one.
        multilabel: whether classes may overlap.
        given: the classes of a trained model.

    Raises:
        ConfigError: the options contradict each other, or the masks have other classes than the model.
        DataError: the masks do not show what is meant.
    """
    if given is not None and given.multilabel != multilabel:
        raise ConfigError(
            f"the model was trained with multilabel={str(given.multilabel).lower()}",
            where="data.multilabel",
            hint=f"data.multilabel={str(given.multilabel).lower()}",
        )
    if isinstance(files, CocoFile | GeoJsonFiles):
        return _of_categories(files, classes, ignore, nearest, multilabel, given)
    if classes is None and nearest:
        raise ConfigError("data.nearest_colour without data.classes", hint=_GIVE_CLASSES)
    table = discover(files, ignore, multilabel, given) if classes is None else classes
    if files.layers and set(files.layers) != set(table):
        raise ConfigError(
            f"there are folders of masks for {', '.join(files.layers)}, and values for {', '.join(table)}",
            where="data.classes",
            hint="name each class as its folder",
        )
    return MaskCodec.create(table, ignore=ignore, nearest=nearest, multilabel=multilabel, given=given)


def discover(
    files: PairedFiles,
    ignore: Sequence[RawValue] = (),
    multilabel: bool = False,
    given: MaskClasses | None = None,
) -> dict[str, RawValues]:
    """Read all masks and return the class table that they show.

    Masks of 0 and 255, or of 0 and 1, are background and foreground. Any other numbers, up to 64 of them, are one class
    each, called by its number; 255 then means ignored. Where classes may overlap, each folder or channel is a class; 0
    says no, 1 or 255 yes.

    Args:
        files: the training split.
        ignore: values that are no classes.
        multilabel: whether classes may overlap.
        given: the classes of a trained model, in case this split does not show all.

    Raises:
        DataError: the masks are in colours, in a lossy format, or hold too many or too few values to tell.
    """
    masks = [part for pair in files.pairs for path in pair.masks for part in slice_paths(path)]
    with ThreadPoolExecutor(_READERS) as pool:
        seen = list(pool.map(_look_at, masks))
    where = str(files.where)
    if not seen:
        raise DataError(files.missing() or "there are no masks to find the classes in", where=where, hint=files.hint)
    _refuse_what_numbers_nothing(seen, where, multilabel)
    values = _values(seen, {raw for raw in ignore if isinstance(raw, int)})
    _refuse_unclear(values, seen, where)
    if multilabel:
        return _overlapping(files, seen, values)
    if given is not None:
        return _as_trained(given, values)
    if set(values) in ({0, 1}, {0, IGNORE}):
        return {BACKGROUND: 0, FOREGROUND: max(values)}
    classes = sorted(value for value in values if value != IGNORE)
    if len(classes) < 2:
        raise MaskError(
            "mask-one-value",
            f"the masks hold {list_values(values)}, and so nothing to tell apart",
            where=where,
            hint=_GIVE_CLASSES,
        )
    return {str(value): value for value in classes}


@dataclass(frozen=True)
class _Seen:
    """What a mask file holds: pixels of each value, and of each colour where it has any."""

    path: Path
    values: Counter[int]
    colours: Counter[int]
    coloured: bool
    channels: int
    lossy: bool
    one_bit: bool


def _look_at(path: Path) -> _Seen:
    raw = read_raw_mask(path)
    coloured = raw.is_coloured
    colours: Counter[int] = Counter()
    channels = raw.values.shape[2]
    if coloured:
        colours = tally(pack_colours(raw.values[:, :, :3]))
    elif raw.palette is not None:
        packed = pack_colours(raw.palette)
        for index, count in tally(raw.values).items():
            colours[int(packed[index])] += count
    grey = channels in (3, 4) and not coloured
    values = tally(raw.values[:, :, :1] if grey else raw.values)
    return _Seen(path, values, colours, coloured, 1 if grey else channels, raw.lossy, raw.one_bit)


def _values(seen: Sequence[_Seen], ignored: set[int]) -> Counter[int]:
    """Return the pixels of each value that is not ignored; white of one bit is what white is in the other files."""
    values: Counter[int] = sum((mask.values for mask in seen if not mask.one_bit), Counter())
    white = IGNORE if IGNORE in values and 1 not in values else 1
    for mask in seen:
        if mask.one_bit:
            values.update({0: mask.values[0], white: mask.values[1]})
    return Counter({value: count for value, count in values.items() if count and value not in ignored})


def _refuse_what_numbers_nothing(seen: Sequence[_Seen], where: str, multilabel: bool) -> None:
    lossy = [mask.path.name for mask in seen if mask.lossy]
    if lossy:
        raise MaskError(
            "mask-lossy",
            f"{len(lossy)} of {len(seen)} masks are JPEGs or the like, first {lossy[0]}: near edges their values are "
            "not those that were saved",
            where=where,
            hint="export them as PNG; or name the classes, and take the nearest: data.nearest_colour=true",
        )
    coloured = [mask.path.name for mask in seen if mask.coloured]
    if coloured and not multilabel:
        colours: Counter[int] = sum((mask.colours for mask in seen), Counter())
        shown = list_values(colours, coloured=True)
        raise MaskError(
            "mask-coloured",
            f"{len(coloured)} of {len(seen)} masks are in colours, first {coloured[0]}: {shown}",
            where=where,
            hint="say which class each colour is: data.classes={road: '#804080', ...}",
        )


def _refuse_unclear(values: Counter[int], seen: Sequence[_Seen], where: str) -> None:
    both = any({1, IGNORE} <= mask.values.keys() for mask in seen)
    if set(values) == {0, 1, IGNORE} and not both:
        one, white = (next(mask.path.name for mask in seen if value in mask.values) for value in (1, IGNORE))
        raise MaskError(
            "mask-values",
            f"some masks hold 0 and 1 ({one}), others 0 and 255 ({white}), and none both",
            where=where,
            hint="say whether 255 is a class, data.classes={background: 0, foreground: [1, 255]}, "
            "or ignored, data.classes={background: 0, foreground: 1}",
        )
    between = {value: count for value, count in values.items() if value not in (0, IGNORE)}
    two_shades = 0 in values and IGNORE in values and sum(between.values()) < 0.1 * sum(values.values())
    if len(values) > _MOST_CLASSES or (two_shades and max(between, default=0) > _MOST_CLASSES):
        raise MaskError(
            "mask-smoothed",
            f"the masks hold {list_values(values)}: too many to be ids, or edges that were smoothed",
            where=where,
            hint=f"{_GIVE_CLASSES}; where edges were smoothed, with data.nearest_colour=true",
        )


def _overlapping(files: PairedFiles, seen: Sequence[_Seen], values: Counter[int]) -> dict[str, RawValues]:
    """Return the table of classes that have a folder or a channel each."""
    channels = sorted({mask.channels for mask in seen})
    if any(mask.coloured for mask in seen):
        channels = [count for count in channels if count != 1]  # in a picture of no class all channels are equal
    strange = sorted(set(values) - {0, 1, IGNORE})
    if strange or len(channels) > 1:
        several = f"masks have {' or '.join(map(str, channels))} channels"
        what = f"the masks hold {list_values(values)}" if strange else several
        raise DataError(
            f"{what}, and classes may overlap", where=str(files.where), hint="say what means which: data.classes={...}"
        )
    if files.layers:
        names = files.layers
    else:
        names = (FOREGROUND,) if channels == [1] else tuple(f"channel {i + 1}" for i in range(channels[0]))
    return dict.fromkeys(names, IGNORE if IGNORE in values and 1 not in values else 1)


def _as_trained(given: MaskClasses, values: Counter[int]) -> dict[str, RawValues]:
    """Return the table that a model's classes were found with."""
    if given.names == (BACKGROUND, FOREGROUND):
        return {BACKGROUND: 0, FOREGROUND: IGNORE if IGNORE in values and 1 not in values else 1}
    if all(name.lstrip("-").isdigit() for name in given.names):
        return {name: int(name) for name in given.names}
    raise ConfigError(
        f"the model has the classes {', '.join(given.names)}, and nothing says which values they have in the masks",
        where="data.classes",
        hint=f"data.classes={{{given.names[0]}: 0, ...}}",
    )


def _of_categories(
    files: CocoFile | GeoJsonFiles,
    classes: Mapping[str, RawValues] | None,
    ignore: Sequence[RawValue],
    nearest: bool,
    multilabel: bool,
    given: MaskClasses | None,
) -> MaskCodec:
    if classes is not None or ignore or nearest:
        raise ConfigError(
            "data.classes, data.ignore and data.nearest_colour say what values in mask files mean; "
            "the classes of a COCO file are its categories, those of GeoJSON the properties of its features",
            where=str(files.annotations if isinstance(files, CocoFile) else files.labels),
            hint="leave them out",
        )
    names = read_categories(files.annotations) if isinstance(files, CocoFile) else read_class_names(files)
    if not multilabel and BACKGROUND not in names:
        names = (BACKGROUND, *names)
    return MaskCodec(given or name_classes(names, multilabel), values=())
