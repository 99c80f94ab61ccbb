"""Scores of a split: IoU, Dice, precision and recall from integer counts of pixels, never averaged over batches.

Each image is counted on its own, in pixels of its file, and once, so a score is the same for any size of batch and any
number of processes. Pixels of 255 in the truth count for nothing.

What is not defined is None and has no part in a mean. A class that is neither in the truth nor found has no IoU and no
Dice; one that is found but is nowhere in the truth has 0. There is no precision where nothing is found and no recall
where there is nothing to find.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from densenet_suite.segmentation.boundary import boundary_overlap, hausdorff
from densenet_suite.segmentation.structures import IGNORE, Counts, MaskClasses

Array = np.ndarray[Any, Any]
_CHUNK = 2**20  # pixels that are counted at once, so that a scene of any size takes little more than itself


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a split, from 0 to 1 (HD95 in pixels); None where not defined.

    Attributes:
        summary: "mIoU" and "mDice", means over the classes of what is counted over all images; "image_mIoU" and
            "image_mDice", means over the images of the mean over the classes of that image (mIoU^I of Wang et al.,
            arXiv:2310.19252); "pixel_accuracy" where classes exclude each other; and, if asked for, "boundary_IoU",
            counted over all images, and "HD95", the mean over the images, both then averaged over the classes.
        per_class: for each class "IoU", "Dice", "precision", "recall", "boundary_IoU" and "HD95" if asked for, and how
            many pixels ("support") and "images" of the truth have it.
        confusion: pixels by class of the truth (rows) and found (columns), or None where classes may overlap.
    """

    summary: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]
    confusion: Array | None


class _Image(NamedTuple):
    """What is kept of an image: its table without the zeros, and what each class has of boundaries."""

    cells: Array  # [n] places in the flat table
    pixels: Array  # [n] their counts
    overlap: Array  # [2 k] pixels of the bands: in both, in either
    distance: Array  # [k] HD95, nan where the class is in neither mask


class SegmentationMetric:
    """Counts the pixels of each image and scores them.

    Args:
        classes: of the masks.
        boundary: also score the boundaries, which takes many times longer.
    """

    def __init__(self, classes: MaskClasses, *, boundary: bool = False):
        self.classes = classes
        self.boundary = boundary
        k = len(classes)
        self._shape = (k, 2, 2) if classes.multilabel else (k, k)  # rows are the truth, columns what was found
        self._images: dict[int, _Image] = {}

    def update(self, index: int, found: UInt8[Tensor, "*k h w"], truth: UInt8[Tensor, "*k2 h2 w2"]) -> None:
        """Add the image with this index, in pixels of its file; a second time replaces it.

        Args:
            index: of the image in its dataset.
            found: [h w] of classes 0..k-1, or [k h w] of 0 and 1 where classes may overlap.
            truth: the same; 255 where not known.

        Raises:
            ValueError: the masks differ in shape, or one holds a value that is no class.
        """
        leading = (len(self.classes),) if self.classes.multilabel else ()
        if found.shape != truth.shape or found.ndim != len(leading) + 2 or tuple(found.shape[:-2]) != leading:
            expected = f"[{len(self.classes)} h w]" if self.classes.multilabel else "[h w]"
            raise ValueError(f"masks found {tuple(found.shape)} and true {tuple(truth.shape)}: both are {expected}")
        table = _count(truth, found, self._shape[-1]).ravel()
        (cells,) = table.nonzero()
        overlap, distance = self._boundaries(found, truth)
        self._images[index] = _Image(cells, table[cells], overlap, distance)

    def _boundaries(self, found_mask: Tensor, true_mask: Tensor) -> tuple[Array, Array]:
        """Compare outlines; pixels that are not known are in no class."""
        k = len(self.classes)
        overlap, distance = np.zeros((2, k), np.int64), np.full(k, np.nan)
        if not self.boundary:
            return overlap, distance
        truth = true_mask.cpu().numpy()
        found = np.where(truth == IGNORE, IGNORE, found_mask.cpu().numpy())
        for c in range(k):
            pair = (found[c] == 1, truth[c] == 1) if self.classes.multilabel else (found == c, truth == c)
            if pair[0].any() or pair[1].any():
                overlap[:, c] = boundary_overlap(*pair)
                distance[c] = hausdorff(*pair)
        return overlap, distance

    def gather(self) -> None:
        """Bring together what several processes have counted; an image that two of them have counts once."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self._images)
            for part in parts:
                self._images.update(part)

    def compute(self) -> SegmentationScores:
        """Score the images that were added."""
        images = [self._images[index] for index in sorted(self._images)]
        k = len(self.classes)
        counts = torch.zeros(3, len(images), k, dtype=torch.int64)
        total = np.zeros(self._shape, np.int64)
        for i, image in enumerate(images):
            table = np.zeros(self._shape, np.int64)
            table.flat[image.cells] = image.pixels
            counts[:, i] = torch.from_numpy(_outcomes(table))
            total += table
        of_images, of_all = Counts(*counts), Counts(*counts.sum(1))
        columns = _columns(of_all) | (self._boundary_columns(images) if self.boundary else {})
        image_columns = _columns(of_images)
        summary = {"mIoU": _mean(columns["IoU"]), "mDice": _mean(columns["Dice"])}
        summary |= {f"image_m{name}": _mean(image_columns[name].nanmean(1)) for name in ("IoU", "Dice")}
        if not self.classes.multilabel:
            summary["pixel_accuracy"] = _number(of_all.hits.sum().double() / int(total.sum()))
        summary |= {name: _mean(columns[name]) for name in ("boundary_IoU", "HD95") if self.boundary}
        truth = of_images.hits + of_images.misses
        per_class: dict[str, dict[str, float | int | None]] = {}
        for c, name in enumerate(self.classes.names):
            sizes = {"support": int(truth[:, c].sum()), "images": int((truth[:, c] > 0).sum())}
            per_class[name] = {column: _number(values[c]) for column, values in columns.items()} | sizes
        return SegmentationScores(summary, per_class, None if self.classes.multilabel else total)

    def _boundary_columns(self, images: Sequence[_Image]) -> dict[str, Tensor]:
        k = len(self.classes)
        overlap = np.zeros((2, k), np.int64) + sum(image.overlap for image in images)
        distances = np.array([image.distance for image in images]).reshape(-1, k)
        both, either = torch.from_numpy(overlap).double()
        return {"boundary_IoU": both / either, "HD95": torch.from_numpy(distances).nanmean(0)}


def _count(truth: UInt8[Tensor, "*k h w"], found: UInt8[Tensor, "*k h w"], values: int) -> Array:
    """Return [k values values], of each plane the number of pixels by value of the truth and value found.

    Raises:
        ValueError: a mask holds another value.
    """
    masks: list[Any] = [mask.numpy() if mask.is_cpu else mask for mask in (truth, found)]  # numpy begins sooner
    t, f = (mask.reshape(-1, truth.shape[-2:].numel()) for mask in masks)
    tables = (_count_on_cpu if truth.is_cpu else _count_on_device)(t, f, values)
    if (highest := int(f.max())) >= values:
        raise ValueError(f"a mask that was found holds {highest}: its values are 0 to {values - 1}")
    if tables.sum() < truth.numel() and (highest := int((t + 1).max()) - 1) >= values:  # 255 + 1 is 0 in 8 bits
        raise ValueError(f"a true mask holds {highest}: its values are 0 to {values - 1}, {IGNORE} where not known")
    return tables


def _count_on_cpu(truth: Array, found: Array, values: int) -> Array:
    """Return [k values values] of the pixels where the truth [k n] is a class."""
    tables = np.zeros((len(truth), values, values), np.int64)
    count = _count_two if values == 2 else _count_any
    for table, t, f in zip(tables, truth, found, strict=True):
        for start in range(0, len(t), _CHUNK):
            table += count(t[start : start + _CHUNK], f[start : start + _CHUNK], values)
    return tables


def _count_two(truth: Array, found: Array, values: int) -> Array:
    """Return [2 2]; comparing takes half the time of looking up."""
    ones = found.view(bool)
    rows = []
    for value in range(values):
        of_value = truth == value
        pixels = np.count_nonzero(of_value)
        of_value &= ones
        both = np.count_nonzero(of_value)
        rows.append((pixels - both, both))
    return np.array(rows)


def _count_any(truth: Array, found: Array, values: int) -> Array:
    """Return [values values]; what of a place in the table fits into 8 bits is computed, the rest looked up."""
    _, places = cv2.threshold(truth, values, 0, cv2.THRESH_TRUNC)  # the last row, of what is no class, is cut off
    places = places.ravel()
    channels, sizes = [places], [values + 1]
    if 2 * (values + 1) * values <= 256:
        places *= np.uint8(values)
        places += found
        sizes[0] *= values
    else:
        channels.append(found)
        sizes.append(values)
    turns = min(8, 256 // sizes[0])
    places += _turns(turns, sizes[0], _CHUNK)[: len(places)]
    sizes[0] *= turns
    ranges = [bound for size in sizes for bound in (0, size)]
    tables = cv2.calcHist(channels, range(len(channels)), None, sizes, ranges)
    # float32 is exact up to 2^24, more than a chunk has pixels
    return tables.reshape(turns, values + 1, values)[:, :values].sum(0).astype(np.int64)


@lru_cache(maxsize=1)
def _turns(tables: int, size: int, pixels: int) -> Array:
    """Return what to add to places in a table of `size`, so that pixels are counted into several tables in turn.

    Raising a number that was raised just before would have to wait for it.
    """
    return np.resize((np.arange(tables) * size).astype(np.uint8), pixels)


def _count_on_device(truth: UInt8[Tensor, "k n"], found: UInt8[Tensor, "k n"], values: int) -> Array:
    """Return the same, of masks on any device."""
    tables = torch.zeros(len(truth), (values + 1) * values, dtype=torch.int64, device=truth.device)
    for table, *pair in zip(tables, truth, found, strict=True):
        for t, f in zip(*(mask.split(_CHUNK) for mask in pair), strict=True):
            keys = t.clamp(max=values).int() * values + f.clamp(max=values - 1)
            table += torch.bincount(keys, minlength=len(table))
    return tables.reshape(len(truth), -1, values)[:, :values].cpu().numpy()  # the last row is of what is no class


def _outcomes(table: Array) -> Array:
    """Return [3 k]: hits, false alarms and misses of each class."""
    if table.ndim == 3:
        return np.stack([table[:, 1, 1], table[:, 0, 1], table[:, 1, 0]])
    hits = table.diagonal()
    return np.stack([hits, table.sum(0) - hits, table.sum(1) - hits])


def _columns(counts: Counts) -> dict[str, Float[Tensor, "*n k"]]:
    """Return the scores of counts, nan where not defined."""
    hits, false_alarms, misses = (count.double() for count in counts)
    return {
        "IoU": hits / (hits + false_alarms + misses),
        "Dice": 2 * hits / (2 * hits + false_alarms + misses),
        "precision": hits / (hits + false_alarms),
        "recall": hits / (hits + misses),
    }


def _mean(values: Float[Tensor, " n"]) -> float | None:
    return _number(values.nanmean())


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)
