"""Labelled images in memory: one structure for every file format, with boxes in xyxy and classes numbered from 0."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings
from densenet_suite.sampling import held_out

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Objects:
    """The annotations of one image, as the file has them, but for the box format.

    Attributes:
        boxes: [n 4] xyxy in file pixels, float64, not clipped.
        labels: [n] 0..k-1.
        crowd: [n] regions that hold many objects; evaluation forgives detections there, training leaves them out.
        areas: [n] of the mask where the file gives it, else of the box.
        ids: of the annotations.
        segmentations: untouched.
    """

    boxes: Array
    labels: Array
    crowd: Array
    areas: Array
    ids: tuple[int, ...]
    segmentations: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def clipped(self, height: int, width: int) -> Array:
        """Return the boxes cut off at the picture's border."""
        return np.clip(self.boxes, 0, np.array([width, height, width, height], np.float64))


@dataclass(frozen=True)
class LabelledImage:
    """An image file and what is on it; height and width are those of the upright picture."""

    id: int
    path: Path
    height: int
    width: int
    objects: Objects


@dataclass(frozen=True)
class DetectionSet:
    """One split. `findings` are what was mended while reading it."""

    name: str
    annotations: Path
    classes: ClassTable
    images: tuple[LabelledImage, ...]
    findings: Findings

    def __len__(self) -> int:
        return len(self.images)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The image files."""
        return tuple(image.path for image in self.images)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        return self.paths

    def subset(self, name: str, indices: Sequence[int]) -> Self:
        """Return a part of it under another name."""
        return replace(self, name=name, images=tuple(self.images[i] for i in indices))

    def describe(self) -> str:
        """Return a line for the log."""
        report = self.report()
        crowd = f", {report['crowd_regions']} crowd regions" if report["crowd_regions"] else ""
        return (
            f"{report['images']} images ({report['images_without_objects']} without objects), {report['objects']} "
            f"objects of {sum(count > 0 for count in report['classes'].values())} classes{crowd}"
        )

    def report(self) -> dict[str, Any]:
        """Return counts and findings for `data_report.json`."""
        labels = Counter(int(label) for image in self.images for label in image.objects.labels)
        return {
            "split": self.name,
            "annotations": str(self.annotations),
            "images": len(self.images),
            "images_without_objects": sum(len(image.objects) == 0 for image in self.images),
            "objects": sum(int((~image.objects.crowd).sum()) for image in self.images),
            "crowd_regions": sum(int(image.objects.crowd.sum()) for image in self.images),
            "classes": {name: labels[i] for i, name in enumerate(self.classes.names)},
            "findings": self.findings.to_list(),
            "damaged": self.findings.damaged,
        }


def hold_out(dataset: DetectionSet, share: float) -> tuple[DetectionSet, DetectionSet]:
    """Divide a set into one to train on and one to validate on, by the names of the files; see `sampling.held_out`."""
    kept, held = held_out([path.name for path in dataset.paths], share)
    return dataset.subset("train", kept), dataset.subset("val", held)
