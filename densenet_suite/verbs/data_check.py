"""`data check`: everything that can be seen to be wrong with a dataset, before anything is trained on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.archives.members import member_of
from densenet_suite.archives.shards import verify
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.errors import DataError
from densenet_suite.findings import SEVERITIES, Finding, Findings, Severity
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.verbs.dataset import OpenedDataset, open_dataset

_DATASET = "dataset"  # what is said of no split
_SHOWN = 3


@dataclass(frozen=True)
class DataCheck:
    """What a check of a dataset found.

    Attributes:
        place: the folder, config or run.
        task: detection or segmentation; None where the place was not understood.
        reason: why it was taken for that.
        formats: how each split was recognised.
        splits: the counts of each split that could be read.
        network: what the network will make of the objects or masks.
        images: how many there are, and how many of them were decoded.
        findings: (split, finding), errors first.
    """

    place: str
    task: str | None
    reason: str
    formats: Mapping[str, str]
    splits: Mapping[str, Mapping[str, Any]]
    network: Mapping[str, Any]
    images: Mapping[str, int]
    findings: tuple[tuple[str, Finding], ...]

    def of(self, severity: Severity) -> list[tuple[str, Finding]]:
        """Return the findings of a severity."""
        return [(split, finding) for split, finding in self.findings if finding.severity == severity]

    def passed(self, *, strict: bool = False) -> bool:
        """Say whether there are no errors, nor warnings if that is `strict`."""
        return not self.of("error") and not (strict and self.of("warning"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "place": self.place,
            "task": self.task,
            "reason": self.reason,
            "formats": dict(self.formats),
            "splits": dict(self.splits),
            "network": dict(self.network),
            "images": dict(self.images),
            **{f"{severity}s": len(self.of(severity)) for severity in SEVERITIES},
            "findings": [{"split": split, **finding.to_dict()} for split, finding in self.findings],
        }

    def __str__(self) -> str:
        return "\n".join([*self._head(), *self._table(), self._sum()])

    def _head(self) -> list[str]:
        lines = [f"{self.place}: {self.task or 'not understood'} ({self.reason})" if self.reason else self.place]
        for name, described in self.formats.items():
            lines.append(f"  {name}: {self.splits[name]['line'] if name in self.splits else 'not read'}")
            lines.append(f"    {described}")
        if "object_sides" in self.network:
            height, width = self.network["size"]
            sides = self.network["object_sides"]
            lines.append(
                f"  to the network, at {width}x{height}: objects of {sides['p5']:.0f} to {sides['p95']:.0f} pixels, "
                f"half of them below {sides['p50']:.0f}; one anchor or none for "
                f"{100 * self.network['one_anchor_or_none']:.0f} %"
            )
        elif self.network:
            height, width = self.network["crop"]
            lines.append(
                f"  to the network: crops of {width}x{height} at scale {self.network['scale']:g} cover "
                f"{100 * self.network['image_covered_by_crop']:.0f} % of an image"
            )
        if self.images and self.images["decoded"] < self.images["images"]:
            what = f"{self.images['decoded']:,} of {self.images['images']:,} images decoded"
            lines.append(f"  {what}: " + ("--fast" if self.images["decoded"] == 0 else "an even sample"))
        return lines

    def _table(self) -> list[str]:
        lines = []
        for severity in SEVERITIES:
            found = self.of(severity)
            if found:
                lines += ["", f"{severity}s"]
            for split, finding in found:
                lines.append(f"  {finding.check}  {split}  {finding.count:,}")
                lines += [f"    {example}" for example in finding.examples[:_SHOWN]]
                if finding.count > _SHOWN:
                    lines.append(f"    and {finding.count - _SHOWN:,} more")
                if finding.hint:
                    lines.append(f"    hint: {finding.hint}")
        return lines

    def _sum(self) -> str:
        if not self.findings:
            return "\nno problem found"
        return "\n" + ", ".join(f"{len(self.of(severity))} {severity}s" for severity in SEVERITIES)


def check_data(
    place: str | Path, overrides: Sequence[str] = (), *, task: str | None = None, fast: bool = False
) -> DataCheck:
    """Check a dataset: structure, ids, boxes or masks, images, balance, and what the network will make of it.

    It stops at nothing: what can be read is looked at, whatever is wrong with the rest.

    Args:
        place: folder of a dataset, config file, or run folder.
        overrides: changes of the config, such as "data.size=512".
        task: detection or segmentation, where a folder holds both.
        fast: leave out what reads the files of the images whole: damage, copies, checksums of shards.

    Raises:
        ConfigError: the config is wrong, or there is no such task.
    """
    general = Findings(str(place), stops=False)
    try:
        opened = open_dataset(place, overrides, task=task)
    except DataError as error:
        general.record(error, "layout")
        return DataCheck(str(place), None, "", {}, {}, {}, {}, _sorted({_DATASET: general}))
    examined = opened.data.examine()
    findings = {name: found for name, (_, found) in examined.items()}
    splits = {name: split for name, (split, _) in examined.items() if split is not None and len(split)}
    if "train" not in examined:
        general.warning("no-train-split", "there is nothing to train on", opened.data.expected("train"))
    _note_unlisted(splits, general)
    counts = {name: {"line": split.describe(), **split.report()} for name, split in splits.items()}
    for count in counts.values():
        del count["findings"]  # of which there will be more
    network = _check_labels(opened, splits)
    images = {"images": sum(len(split) for split in splits.values()), "decoded": 0}
    if not fast:
        images = _check_images(opened, splits, findings)
    formats = {name: opened.data.recognised(name) for name in examined}
    return DataCheck(
        str(place),
        opened.config.task,
        opened.reason,
        formats,
        counts,
        network,
        images,
        _sorted({_DATASET: general, **findings}),
    )


def _check_labels(opened: OpenedDataset, splits: Mapping[str, Any]) -> dict[str, Any]:
    from densenet_suite.training.slices import SLICES

    return SLICES[opened.config.task].check(opened.config, splits, True)


def _check_images(opened: OpenedDataset, splits: Mapping[str, Any], findings: Mapping[str, Findings]) -> dict[str, int]:
    from densenet_suite.image_checks import check_images

    for name, split in splits.items():
        members = [member for path in split.paths if (member := member_of(path)) is not None]
        verify(sorted({member.archive for member in members}), findings[name])
    looked_at, found = dict(splits), dict(findings)
    if "train" in splits and "val" not in splits and opened.data.holdout > 0 and len(splits["train"]) > 1:
        looked_at["train"], looked_at["val"] = opened.data.divide(splits["train"])
        found["val"] = found["train"]

    def same_labels(a: tuple[str, int], b: tuple[str, int]) -> bool:
        return _same_labels(looked_at[a[0]], a[1], looked_at[b[0]], b[1])

    return check_images({name: split.paths for name, split in looked_at.items()}, found, same_labels)


def _same_labels(first: Any, i: int, second: Any, j: int) -> bool:
    if isinstance(first, DetectionSet):
        return _rows(first, i) == _rows(second, j)
    assert isinstance(first, SegmentationSet)
    return bool(np.array_equal(first.scenes[i].mask.decode().mask, second.scenes[j].mask.decode().mask))


def _rows(split: DetectionSet, i: int) -> list[tuple[float, ...]]:
    objects = split.images[i].objects
    return sorted((float(label), *map(float, box)) for label, box in zip(objects.labels, objects.boxes, strict=True))


def _note_unlisted(splits: Mapping[str, Any], findings: Findings) -> None:
    """Count pictures beside those of the splits that no split has: negatives that were left out, or a wrong list."""
    from densenet_suite.detection.annotation_checks import image_files

    listed = {path for split in splits.values() if isinstance(split, DetectionSet) for path in split.paths}
    folders = {path.parent for path in listed}
    tops = [folder for folder in folders if not folders & set(folder.parents)]
    unlisted = sorted({path for folder in tops for path in image_files(folder)} - listed)
    findings.several(
        "note",
        "image-unlisted",
        len(unlisted),
        [f"image {path} is in no split" for path in unlisted[:10]],
        "pictures without objects have to be listed too, to be learned from",
    )


def _sorted(findings: Mapping[str, Findings]) -> tuple[tuple[str, Finding], ...]:
    entries = [(name, finding) for name, found in findings.items() for finding in found]
    return tuple(sorted(entries, key=lambda entry: SEVERITIES.index(entry[1].severity)))
