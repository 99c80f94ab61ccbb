"""What can be said of boxes once they are read, over a whole split: doubles, swapped axes, balance of classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from densenet_suite.detection.box_table import BoxTable
from densenet_suite.detection.datasets import DetectionSet

Array = np.ndarray[Any, Any]

_DOUBLE_IOU = 0.9
_SWAPPED = 0.05  # share of boxes that leave their picture, from which swapped axes are suspected
_FITS_SWAPPED = 0.95  # share of those that fit once their axes are exchanged
_FAR_OUT = 0.02  # of a side: sloppier boxes than this are rare, swapped ones leave by more
_RARE = 10  # objects of a class
_IMBALANCE = 1000
_SHOWN = 10


def check_boxes(splits: Mapping[str, DetectionSet], tables: Mapping[str, BoxTable]) -> None:
    """Add to the findings of each split what its boxes and classes show."""
    for name, split in splits.items():
        _note_doubles(split, tables[name])
        _note_swapped(split, tables[name])
        _note_extremes(split, tables[name])
    train = splits.get("train")
    if train is None:
        return
    counts = np.bincount(tables["train"].labels[tables["train"].trained], minlength=len(train.classes))
    _note_balance(train, counts)
    for name in splits.keys() - {"train"}:
        table = tables[name]
        here = np.bincount(table.labels[table.trained], minlength=len(train.classes))
        only = np.flatnonzero((counts == 0) & (here > 0))
        splits[name].findings.several(
            "warning",
            "class-not-in-train",
            len(only),
            [f"class {train.classes.names[i]!r} has {here[i]} objects here and none to train on" for i in only],
            "divide the images anew, so that each class is trained on",
        )


def _note_doubles(split: DetectionSet, table: BoxTable) -> None:
    first, second, iou = _same_class_pairs(table, _DOUBLE_IOU)
    twins = (table.boxes[first] == table.boxes[second]).all(1)
    split.findings.several(
        "warning",
        "box-twice",
        int(twins.sum()),
        [f"{_place(split, table, i)} is there twice, with the same class" for i in first[twins][:_SHOWN]],
        "take one of them away",
    )
    rest = np.flatnonzero(~twins)
    split.findings.several(
        "warning",
        "box-double",
        len(rest),
        [
            f"{_place(split, table, first[i])} and {_numbers(table.boxes[second[i]])} overlap by {iou[i]:.2f}, "
            f"of the same class {split.classes.names[table.labels[first[i]]]!r}"
            for i in rest[:_SHOWN]
        ],
        "two boxes on one object teach the network to find it twice: take one of them away",
    )


def _same_class_pairs(table: BoxTable, least: float) -> tuple[Array, Array, Array]:
    """Return the rows of boxes of one picture and class that overlap by at least so much, and the overlap."""
    order = np.lexsort((table.boxes[:, 0], table.labels, table.image))
    order = order[table.trained[order]]
    boxes, group = table.boxes[order], table.image[order] * (table.labels.max(initial=0) + 1) + table.labels[order]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    found: list[tuple[Array, Array, Array]] = []
    ahead = np.arange(len(order))
    for step in range(1, len(order)):
        # a box that begins where this one has ended, or one of another group, ends the search
        ahead = ahead[ahead + step < len(order)]
        ahead = ahead[(group[ahead] == group[ahead + step]) & (boxes[ahead + step, 0] < boxes[ahead, 2])]
        if not len(ahead):
            break
        a, b = boxes[ahead], boxes[ahead + step]
        sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        iou = shared / np.maximum(areas[ahead] + areas[ahead + step] - shared, 1e-12)
        near = iou >= least
        found.append((order[ahead[near]], order[ahead[near] + step], iou[near]))
    empty = np.zeros(0, np.int64)
    first, second, overlap = (np.concatenate(parts) for parts in zip((empty, empty, np.zeros(0)), *found, strict=True))
    earlier = np.argsort(np.minimum(first, second), kind="stable")
    return np.minimum(first, second)[earlier], np.maximum(first, second)[earlier], overlap[earlier]


def _note_swapped(split: DetectionSet, table: BoxTable) -> None:
    limits = table.limits()
    beyond = (table.boxes - limits)[:, 2:] > np.maximum(1, _FAR_OUT * limits[:, 2:])
    leaves = beyond.any(1)
    fits = (table.boxes[:, [1, 0, 3, 2]] <= limits + 1).all(1) & (table.boxes >= -1).all(1)
    swapped = leaves & fits
    dropped = next((finding.count for finding in split.findings if finding.check == "box-outside"), 0)
    total = len(table.boxes) + dropped
    if not swapped.any() or swapped.sum() + dropped < _SWAPPED * total or swapped.sum() < _FITS_SWAPPED * leaves.sum():
        return
    if swapped.sum() < 3:  # of which no pattern can be seen
        return
    split.findings.error(
        "boxes-swapped",
        f"{int(swapped.sum()) + dropped} of {total} boxes leave their picture, and fit with x and y exchanged: "
        f"{_place(split, table, int(np.flatnonzero(swapped)[0]))}",
        "boxes are x first, then y: were they written as y, x (TensorFlow's order)?",
    )


def _note_extremes(split: DetectionSet, table: BoxTable) -> None:
    boxes = table.clipped()
    sides = boxes[:, 2:] - boxes[:, :2]
    tiny = np.flatnonzero((sides.min(axis=1, initial=np.inf) < 1) & table.trained)
    split.findings.several(
        "warning",
        "box-tiny",
        len(tiny),
        [f"{_place(split, table, i)} is {sides[i, 0]:.2g}x{sides[i, 1]:.2g} pixels" for i in tiny[:_SHOWN]],
        "less than a pixel shows nothing; was it clicked by mistake?",
    )
    limits = table.limits()[:, 2:]
    whole = np.flatnonzero((np.prod(sides, axis=1) >= 0.99 * np.prod(limits, axis=1)) & table.trained)
    split.findings.several(
        "note",
        "box-whole-picture",
        len(whole),
        [f"{_place(split, table, i)} covers its whole picture" for i in whole[:_SHOWN]],
    )


def _note_balance(train: DetectionSet, counts: Array) -> None:
    names = train.classes.names
    empty = np.flatnonzero(counts == 0)
    train.findings.several(
        "warning",
        "class-empty",
        len(empty),
        [f"class {names[i]!r} has no object in the training split: it cannot be learned" for i in empty],
    )
    rare = np.flatnonzero((counts > 0) & (counts < _RARE))
    train.findings.several(
        "note", "class-rare", len(rare), [f"class {names[i]!r} has only {counts[i]} objects to train on" for i in rare]
    )
    present = counts[counts > 0]
    if len(present) > 1 and present.max() > _IMBALANCE * present.min():
        train.findings.note(
            "class-imbalance",
            f"the most frequent class, {names[counts.argmax()]!r}, has {present.max() / present.min():.0f} times as "
            "many objects as the rarest",
        )


def _place(split: DetectionSet, table: BoxTable, row: Any) -> str:
    image = split.images[int(table.image[row])]
    return f"{image.path.name}: box {_numbers(table.boxes[row])}"


def _numbers(box: Array) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in box) + "]"
