"""What a detector will make of the objects: their sides at its size, and how many anchors are to find each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.box_table import BoxTable
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.matching import match_anchors
from densenet_suite.geometry import Letterbox

Array = np.ndarray[Any, Any]

_FEW_ANCHORS = 0.2  # share of objects that no more than one anchor is to find
_PAIRS = 50_000_000  # of objects and anchors that are compared: a second or so
_SHRUNK = 3.0  # how much smaller a scene may become before tiles are advised
_LONG = 3.0  # times as long as wide
_SHOWN = 10


@dataclass(frozen=True)
class AnchorPlan:
    """The anchors of a detector: (height, width) of its input, its levels, and scale and shapes; see `anchor_boxes`."""

    size: tuple[int, int]
    levels: tuple[int, ...]
    scale: float
    aspects: tuple[tuple[float, float], ...]

    def anchors(self) -> torch.Tensor:
        """Return them all, [n 4] xyxy."""
        cells = [(-(-self.size[0] // 2**level), -(-self.size[1] // 2**level)) for level in self.levels]
        return anchor_boxes(self.size, cells, self.scale, self.aspects)

    def alternatives(self) -> dict[str, Self]:
        """Return plans that see smaller objects, by the keys of the config that make them."""
        larger = [(_rounded(factor * self.size[0]), _rounded(factor * self.size[1])) for factor in (1.5, 2)]
        plans = {
            f"data.size={_side(size)}": replace(self, size=size)
            for size in larger
            if size[0] > self.size[0] and size[1] > self.size[1]
        }
        for factor in (0.75, 0.5):
            scale = round(self.scale * factor, 1)
            plans[f"model.anchor_scale={scale:g}"] = replace(self, scale=scale)
        if self.levels[0] > 2:
            finer = self.levels[0] - 1
            plans[f"model.min_level={finer}"] = replace(self, levels=(finer, *self.levels))
        return plans


def check_network(
    splits: Mapping[str, DetectionSet],
    tables: Mapping[str, BoxTable],
    plan: AnchorPlan,
    max_detections: int,
    *,
    advise: bool,
) -> dict[str, Any]:
    """Say what a detector will make of the objects; what it will not be able to learn is added to the findings.

    Args:
        splits: by name.
        tables: their boxes.
        plan: the anchors of the detector.
        max_detections: most that are evaluated in an image.
        advise: whether to compute what other sizes and anchors would do, where few anchors find the objects.

    Returns:
        plain values: the sides of the objects at the network's size, and shares of those that few anchors find.
    """
    for name, split in splits.items():
        _note_many(split, tables[name], max_detections)
        _note_large(split, tables[name], plan.size)
    if "train" not in splits or not tables["train"].trained.any():
        return {}
    split, table = splits["train"], tables["train"]
    sides = object_sides(table, plan.size)
    sample = _sample(table, len(plan.anchors()))
    counts = anchors_per_object(table, plan, sample)
    labels = table.labels[sample]
    share = float((counts <= 1).mean())
    names = split.classes.names
    summary = {
        "size": list(plan.size),
        "object_sides": {f"p{q}": round(float(np.percentile(sides, q)), 1) for q in (5, 50, 95)},
        "objects_matched": len(sample),
        "objects": int(table.trained.sum()),
        "no_anchor": float((counts == 0).mean()),
        "one_anchor_or_none": share,
        "one_anchor_or_none_per_class": {
            names[i]: float((counts[labels == i] <= 1).mean()) for i in np.unique(labels).tolist()
        },
    }
    if share >= _FEW_ANCHORS:
        _note_few_anchors(split, table, plan, summary, sample[counts <= 1], advise=advise)
    return summary


def object_sides(table: BoxTable, size: tuple[int, int]) -> Array:
    """Return the mean side (root of the area) of each object that is trained on, in pixels of the network's input."""
    boxes = _on_canvas(table, size)[table.trained]
    return np.asarray(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)))


def anchors_per_object(table: BoxTable, plan: AnchorPlan, sample: Array) -> Array:
    """Return how many anchors are to find each of the boxes `sample`, rows of the table in ascending order."""
    anchors = plan.anchors()
    boxes = _on_canvas(table, plan.size)[sample]
    images = table.image[sample]
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    counts = np.zeros(len(sample), np.int64)
    for start, stop in zip(starts, [*starts[1:], len(sample)], strict=True):
        rows = torch.from_numpy(boxes[start:stop].astype(np.float32))[None]
        matches = match_anchors(rows, torch.zeros(1, stop - start, dtype=torch.int64), anchors)[0]
        counts[start:stop] = torch.bincount(matches[matches >= 0], minlength=stop - start).numpy()
    return counts


def _sample(table: BoxTable, anchors: int) -> Array:
    """Return the rows of all objects of pictures spread over the split, as many as can be matched in little time."""
    rows = np.flatnonzero(table.trained)
    most = max(200, _PAIRS // anchors)
    if len(rows) <= most:
        return rows
    images = np.unique(table.image[rows])
    order = np.argsort((np.arange(len(images)) * 0.6180339887) % 1, kind="stable")  # spread, and the same every time
    per_image = np.bincount(table.image[rows], minlength=len(table.sizes))
    taken = images[order[np.cumsum(per_image[images[order]]) <= most]]
    return rows[np.isin(table.image[rows], taken if len(taken) else images[:1])]


def _on_canvas(table: BoxTable, size: tuple[int, int]) -> Array:
    different, which = np.unique(table.sizes, axis=0, return_inverse=True)
    scales = np.array([Letterbox.fit((int(h), int(w)), size).scale for h, w in different]).reshape(-1, 2)
    return np.asarray(table.clipped() * scales[which.reshape(-1)][table.image][:, [1, 0, 1, 0]])


def _note_many(split: DetectionSet, table: BoxTable, most: int) -> None:
    counts = np.bincount(table.image[table.trained], minlength=len(split))
    full = np.flatnonzero(counts > most)
    split.findings.several(
        "warning",
        "many-objects",
        len(full),
        [f"image {split.images[i].path.name} has {counts[i]} objects, {most} are detected at most" for i in full],
        f"postprocess.max_detections={int(100 * np.ceil(counts.max(initial=1) / 100))}",
    )


def _note_large(split: DetectionSet, table: BoxTable, size: tuple[int, int]) -> None:
    shrunk = (table.sizes / np.array(size)).max(axis=1, initial=0)
    large = np.flatnonzero(shrunk > _SHRUNK)
    split.findings.several(
        "note",
        "scene-large",
        len(large),
        [
            f"image {split.images[i].path.name} of {table.sizes[i, 1]}x{table.sizes[i, 0]} becomes {shrunk[i]:.1f} "
            f"times smaller for a network of {size[1]}x{size[0]}"
            for i in large[:_SHOWN]
        ],
        "where the objects on them are small, cut the pictures into tiles, or give data.size more",
    )


def _note_few_anchors(
    split: DetectionSet, table: BoxTable, plan: AnchorPlan, summary: Mapping[str, Any], rows: Array, *, advise: bool
) -> None:
    """Say how many objects few anchors are to find, those in `rows` of the table, and what would do better."""
    share = summary["one_anchor_or_none"]
    better = []
    for keys, other in plan.alternatives().items() if advise else ():
        found = anchors_per_object(table, other, _sample(table, len(other.anchors())))
        left = float((found <= 1).mean())
        if left < 0.8 * share:
            better.append((left, f"{keys} leaves {100 * left:.0f} %"))
    if better:
        hint = "; ".join(text for _, text in sorted(better)[:4])
    elif advise:
        hint = _why(table, plan, rows)
    else:
        hint = "densenet-suite data check says what other sizes and anchors would do"
    looked_at = summary["objects_matched"]
    of = "" if looked_at == summary["objects"] else f" (of {looked_at} looked at)"
    split.findings.warning(
        "few-anchors",
        f"{100 * share:.0f} % of the objects{of} are found by one anchor or none at {plan.size[1]}x{plan.size[0]}; "
        f"{_worst(summary['one_anchor_or_none_per_class'])}",
        hint,
    )


def _why(table: BoxTable, plan: AnchorPlan, rows: Array) -> str:
    """Say what is the matter with objects that neither other sizes nor other anchors help to find."""
    boxes = _on_canvas(table, plan.size)[rows]
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    if np.median(sides.max(1) / sides.min(1)) > _LONG:
        return "most of them are more than three times as long as wide or high, and no anchor is"
    return (
        f"half of them are smaller than {np.median(sides.max(1)):.0f} pixels to the network: cut the pictures into "
        "tiles, so that objects stay as large as they are"
    )


def _worst(per_class: Mapping[str, float]) -> str:
    worst = sorted(per_class.items(), key=lambda entry: -entry[1])[:3]
    return "most of all " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in worst)


def _rounded(side: float) -> int:
    return 128 * max(1, round(side / 128))


def _side(size: Sequence[int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"
