"""Labelled scenes in memory: where every image and its mask are, and what the masks hold.

Nothing of a picture is kept, only what its header says; `reading` makes them from files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.sampling import held_out
from densenet_suite.segmentation.masks import DecodedMask
from densenet_suite.segmentation.structures import MaskClasses
from densenet_suite.volumes.voxels import file_of

Array = np.ndarray[Any, Any]


class MaskSource(Protocol):
    """Where a mask comes from: files, or polygons."""

    @property
    def place(self) -> str:
        """The file, for messages."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""

    def decode(self) -> DecodedMask:
        """Return the mask, uint8 [h w] or [k h w]."""


@dataclass(frozen=True)
class LabelledScene:
    """An image or slice and its mask; height, width (of the upright picture), bands and dtype are those of the file."""

    path: Path
    height: int
    width: int
    bands: int
    dtype: str
    mask: MaskSource


@dataclass(frozen=True)
class SegmentationSet:
    """One split.

    Attributes:
        name: of the split.
        source: the folder, table or file that says what belongs together.
        classes: what the masks hold.
        scenes: the images.
        findings: what was noticed, and mended, while reading.
        pixel_counts: int64 [n k], pixels of each scene that are of each class.
        known_counts: int64 [n k], pixels of each scene for which the mask says whether they are of the class; where
            classes exclude each other, all columns are equal.
    """

    name: str
    source: Path
    classes: MaskClasses
    scenes: tuple[LabelledScene, ...]
    findings: Findings
    pixel_counts: Array
    known_counts: Array

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The image files."""
        return tuple(scene.path for scene in self.scenes)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read, of images and masks."""
        return (*self.paths, *(path for scene in self.scenes for path in scene.mask.paths))

    def subset(self, name: str, indices: Sequence[int]) -> Self:
        """Return a part of it under another name."""
        chosen = np.array(indices, np.int64)
        return replace(
            self,
            name=name,
            scenes=tuple(self.scenes[i] for i in indices),
            pixel_counts=self.pixel_counts[chosen],
            known_counts=self.known_counts[chosen],
        )

    def describe(self) -> str:
        """Return a line for the log."""
        report = self.report()
        bands, dtypes = ("/".join(str(kind) for kind in report[key]) for key in ("bands", "dtypes"))
        pixels = {name: counts["pixels"] for name, counts in report["classes"].items()}
        known = max(1, int(self.known_counts.sum() / len(self.classes)))
        shares = ", ".join(f"{name} {100 * count / known:.1f} %" for name, count in pixels.items())
        return f"{report['images']} images of {bands} bands, {dtypes}; {shares}"

    def report(self) -> dict[str, Any]:
        """Return counts and findings for `data_report.json`."""
        pixels = sum(scene.height * scene.width for scene in self.scenes)
        known = int(self.known_counts.sum()) / max(1, len(self.classes))
        return {
            "split": self.name,
            "source": str(self.source),
            "images": len(self.scenes),
            "pixels": pixels,
            "ignored_share": 1 - known / max(1, pixels),
            "bands": sorted({scene.bands for scene in self.scenes}),
            "dtypes": sorted({scene.dtype for scene in self.scenes}),
            "multilabel": self.classes.multilabel,
            "classes": {
                name: {
                    "pixels": int(self.pixel_counts[:, i].sum()),
                    "images": int((self.pixel_counts[:, i] > 0).sum()),
                }
                for i, name in enumerate(self.classes.names)
            },
            "findings": self.findings.to_list(),
            "damaged": self.findings.damaged,
        }


def hold_out(dataset: SegmentationSet, share: float) -> tuple[SegmentationSet, SegmentationSet]:
    """Divide a set into one to train on and one to validate on, by the names of the files; see `sampling.held_out`.

    The slices of a volume stay together.

    Raises:
        DataError: all of them are of one volume.
    """
    file_names = [file_of(path).name for path in dataset.paths]
    names = list(dict.fromkeys(file_names))
    if len(names) == 1:
        raise DataError(
            f"all {len(dataset)} training images are slices of one volume, {names[0]}: none can be held out fairly",
            where=str(dataset.source),
            hint="name a val split: data.val.images=... data.val.masks=...; or do without: data.holdout=0",
        )
    _, held_names = ({names[i] for i in part} for part in held_out(names, share))
    kept, held = ([i for i, name in enumerate(file_names) if (name in held_names) == side] for side in (False, True))
    train = dataset.subset("train", kept)
    note_absent_classes(train, np.flatnonzero(dataset.pixel_counts.any(0)).tolist())  # others were noted before
    return train, dataset.subset("val", held)


def note_absent_classes(train: SegmentationSet, among: Iterable[int]) -> None:
    """Add to the findings those classes, of the numbers `among`, that have no pixel to train on."""
    for i in among:
        if not train.pixel_counts[:, i].any():
            train.findings.warning(
                "class-absent",
                f"class {train.classes.names[i]!r} has no pixel in the training split: it cannot be learned",
            )
