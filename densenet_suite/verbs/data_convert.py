"""`data convert`: a dataset written in another format, with a count of what that loses."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.detection.coco_writer import write_coco
from densenet_suite.detection.csv_writer import write_csv
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.shards import write_shards as write_box_shards
from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.voc_writer import write_voc
from densenet_suite.detection.yolo_writer import write_yolo
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.findings import Findings
from densenet_suite.registry import did_you_mean
from densenet_suite.segmentation.coco_mask_writer import write_coco_masks
from densenet_suite.segmentation.coco_masks import BACKGROUND
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.mask_writer import write_masks
from densenet_suite.segmentation.regions import connected_regions
from densenet_suite.segmentation.shards import write_shards as write_mask_shards
from densenet_suite.verbs.dataset import open_dataset

_BOXES = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_csv}
_MASKS = ("masks", "palette", "colours", "layers")
FORMATS = (*_BOXES, *_MASKS, "shards")


@dataclass(frozen=True)
class Converted:
    """A dataset that has been written.

    Attributes:
        out: its folder.
        reason: what the source was taken for, and why.
        counts: of each split, such as images and objects.
        mended: of each split, what was noticed while reading, such as boxes that were dropped.
        lost: of each split, what the format could not hold, by kind.
        pictures: "linked" or "copied".
    """

    out: Path
    reason: str
    counts: Mapping[str, Mapping[str, int]]
    mended: Mapping[str, Findings] = field(default_factory=dict)
    lost: Mapping[str, Findings] = field(default_factory=dict)
    pictures: str = "linked"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        mended, lost = (
            {split: findings.to_list() for split, findings in found.items()} for found in (self.mended, self.lost)
        )
        return {"out": str(self.out), "reason": self.reason, "splits": self.counts, "mended": mended, "lost": lost}

    def __str__(self) -> str:
        lines = [f"read as {self.reason}"]
        for split, counts in self.counts.items():
            lines.append(f"{split}: " + ", ".join(f"{number} {what}" for what, number in counts.items()))
            lines += [f"  noticed: {finding.check} {finding.count}: {finding}" for finding in self.mended[split]]
            lines += [f"  lost: {finding.check} {finding.count}: {finding}" for finding in self.lost[split]]
        if not any(any(True for _ in findings) for findings in self.lost.values()):
            lines.append("nothing was lost in writing")
        lines.append(f"written to {self.out}; pictures are {self.pictures}")
        return "\n".join(lines)


def convert_data(
    place: str | Path,
    overrides: Sequence[str] = (),
    *,
    out: str | Path,
    to: str,
    task: str | None = None,
    boxes: bool = False,
    copy: bool = False,
    shard_mb: int = 256,
) -> Converted:
    """Write all splits of a dataset in another format.

    Masks become boxes where the format holds nothing else, or where `boxes` asks for it: one around each connected
    region. Pictures are hard links to those of the source, which take no room, or copies where links cannot be made.

    Args:
        place: folder of a dataset, config file, or run folder.
        overrides: changes of the config, such as "data.classes={background: 0, cell: 255}".
        out: folder to write, which is not there or empty; it is complete or absent.
        to: coco, voc, yolo or csv; masks (numbers), palette, colours or layers (a file for each class); or shards.
        task: detection or segmentation, where the folder holds both.
        boxes: write boxes around the connected regions of masks where `to` could hold the masks themselves.
        copy: the pictures, so that a change of the one dataset is none of the other.
        shard_mb: most megabytes of a shard; a larger sample has one of its own.

    Raises:
        ConfigError: there is no such format, or it does not suit the task.
        DataError: the dataset is faulty, or `out` is not empty.
    """
    if to not in FORMATS:
        raise ConfigError(f"there is no format {to!r}", hint=did_you_mean(to, FORMATS) or f"formats: {FORMATS}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("the place to write to is not empty", where=str(out), hint="name a folder that is not there")
    opened = open_dataset(place, overrides, task=task)
    opened.data.holdout = 0.0  # what is held out of a training split in a run is a part of it here
    sets = dict(opened.data.splits)
    if not sets:
        opened.data.split("train")  # says what is missing
    masks = opened.config.task == "segmentation"
    if masks and (boxes or to in ("voc", "yolo", "csv")):
        sets, masks = {name: _boxes_of(dataset) for name, dataset in sets.items()}, False
    if to in _MASKS and not masks:
        raise ConfigError(
            f"boxes cannot be written as {to}",
            hint="where a COCO file has outlines: --task segmentation, without --boxes",
        )
    temporary = out.absolute().with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        lost = _write(sets, temporary, to, masks=masks, copy=copy, shard_mb=shard_mb)
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    counts = {name: _counts(dataset) for name, dataset in sets.items()}
    mended = {name: dataset.findings for name, dataset in sets.items()}
    pictures = "copied" if copy or to == "shards" else "linked where possible"
    reason = f"{opened.config.task}: {opened.data.recognised(next(iter(sets)))}"
    return Converted(out, reason, counts, mended, lost, pictures)


def _write(
    sets: Mapping[str, Any], root: Path, to: str, *, masks: bool, copy: bool, shard_mb: int
) -> dict[str, Findings]:
    root.mkdir(parents=True)
    if to == "shards":
        write = write_mask_shards if masks else write_box_shards
        return write(sets, root, limit=shard_mb * 1_000_000)
    if masks:
        if to == "coco":
            return write_coco_masks(sets, root, copy=copy)
        return write_masks(sets, root, to, copy=copy)  # type: ignore[arg-type]  # checked by the caller
    return _BOXES[to](sets, root, copy=copy)


def _boxes_of(dataset: SegmentationSet) -> DetectionSet:
    """Return the connected regions of masks as objects; background is no class of boxes."""
    kept = [i for i, name in enumerate(dataset.classes.names) if dataset.classes.multilabel or name != BACKGROUND]
    label_of = {old: new for new, old in enumerate(kept)}
    ids = count(1)
    images = []
    for number, scene in enumerate(dataset.scenes, start=1):
        found = list(connected_regions(scene.mask.decode().mask, dataset.classes))
        objects = Objects(
            boxes=np.array([region.box for region in found], np.float64).reshape(-1, 4),
            labels=np.array([label_of[region.label] for region in found], np.int64),
            crowd=np.zeros(len(found), bool),
            areas=np.array([region.area for region in found], np.float64),
            ids=tuple(next(ids) for _ in found),
            segmentations=tuple(region.segmentation for region in found),
        )
        images.append(LabelledImage(number, scene.path, scene.height, scene.width, objects))
    classes = ClassTable.numbered([dataset.classes.names[i] for i in kept])
    return DetectionSet(dataset.name, dataset.source, classes, tuple(images), dataset.findings)


def _counts(dataset: Any) -> dict[str, int]:
    report = dataset.report()
    if isinstance(dataset, SegmentationSet):
        return {"images": len(dataset), "classes": len(dataset.classes)}
    return {"images": report["images"], "objects": report["objects"], "crowd regions": report["crowd_regions"]}
