"""What a format cannot hold of a labelled set, counted, so that writing loses nothing in silence.

| format | loses |
| --- | --- |
| COCO, shards | nothing |
| Pascal VOC | ids, areas, outlines; classes without objects and their order |
| YOLO | ids, areas, outlines, crowd regions, what sticks out of the picture, the order of images |
| CSV | ids, areas, outlines; classes without objects and their order |

What no reader keeps, such as the licences of COCO or the poses of VOC, is not in a set and cannot be written.
"""

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np

from densenet_suite.detection.datasets import DetectionSet, LabelledImage
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.picture_files import UNSAFE


def shared_classes(sets: Mapping[str, DetectionSet]) -> ClassTable:
    """Return the classes of splits that are written together.

    Raises:
        DataError: there is nothing to write, the splits do not have the same classes, or a name cannot be written.
    """
    tables = list(dict.fromkeys(dataset.classes for dataset in sets.values()))
    if len(tables) != 1:
        raise DataError(
            "there is no split to write" if not tables else "the splits have different classes",
            hint="read them with the classes of the training split" if tables else None,
        )
    names = [name.strip() for name in tables[0].names]
    for name in tables[0].names:
        if UNSAFE.search(name) or not name.strip() or names.count(name.strip()) > 1:
            raise DataError(
                f"the class name {name!r} cannot be written",
                hint="names are of letters, digits, signs and spaces that can be seen, and differ in more than "
                "spaces around them",
            )
    return tables[0]


def note_plain_boxes(dataset: DetectionSet, findings: Findings) -> None:
    """Count what is lost in a format that holds nothing but boxes and classes: ids, areas and outlines."""
    running = count(1)
    for number, image in enumerate(dataset.images, start=1):
        if image.id != number:
            findings.warning("image-id-lost", f"image {image.path.name} has the id {image.id}")
        objects = image.objects
        renumbered = [key for key in objects.ids if key != next(running)]
        for key in renumbered:
            findings.warning("annotation-id-lost", f"an object of {image.path.name} has the id {key}")
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        for i in np.flatnonzero(~np.isclose(objects.areas, sides.prod(1), rtol=1e-9)):
            findings.warning("area-lost", f"object {objects.ids[i]} of {image.path.name}: area {objects.areas[i]}")
        for key, outline in zip(objects.ids, objects.segmentations, strict=True):
            if outline:
                findings.warning(
                    "outline-lost", f"object {key} of {image.path.name} has an outline, only its box stays"
                )


def note_category_ids(classes: ClassTable, first: int, findings: Findings) -> None:
    """Count the categories whose ids are not those that the format numbers them with, from `first`."""
    for number, (name, key) in enumerate(zip(classes.names, classes.ids, strict=True), start=first):
        if key != number:
            findings.warning("category-id-lost", f"class {name!r} has the id {key}, here it is {number}")


def note_occurring_classes(sets: Mapping[str, DetectionSet], findings: Mapping[str, Findings]) -> None:
    """Count what is lost in a format without a list of classes: they are those that occur, in the order of names."""
    classes = shared_classes(sets)
    used = {name: _used(dataset) for name, dataset in sets.items()}
    first = next(iter(sets))  # that of the training, if there is one, which the others are read with
    kept = [name for i, name in enumerate(classes.names) if i in used[first]]
    for i, name in enumerate(classes.names):
        if i not in used[first]:
            elsewhere = [split for split in sets if i in used[split]]
            findings[first].warning(
                "class-lost",
                f"class {name!r} has no object in the {first} split, and there is no list of classes"
                + (f": the {elsewhere[0]} split, where it has some, cannot be read with it" if elsewhere else ""),
            )
    for i, (name, other) in enumerate(zip(kept, sorted(kept), strict=True)):
        if name != other:
            findings[first].warning("class-order-lost", f"class {i} is {name!r}, when read again it is {other!r}")
    ids = {name: key for name, key in zip(classes.names, classes.ids, strict=True) if name in kept}
    note_category_ids(ClassTable(tuple(sorted(ids)), tuple(ids[name] for name in sorted(ids))), 1, findings[first])


def note_stripped_names(classes: ClassTable, findings: Findings) -> None:
    """Count the classes whose names lose spaces around them."""
    for name in classes.names:
        if name != name.strip():
            findings.warning("class-name-stripped", f"class {name!r} is called {name.strip()!r}")


def note_order(names: Sequence[str], findings: Findings) -> None:
    """Say so where the order of the images becomes that of their names."""
    if list(names) != sorted(names, key=lambda name: name.split("/")):
        findings.warning("image-order-lost", f"images are read in the order of their names, not from {names[0]} on")


def note_difference(image: LabelledImage, key: int, error: float, findings: Findings) -> None:
    """Count a box that is read again otherwise than it was, by `error` pixels."""
    if error:
        findings.warning("box-rounded", f"object {key} of {image.path.name} is read {error:.3g} pixels beside")


def _used(dataset: DetectionSet) -> set[int]:
    return {int(label) for image in dataset.images for label in np.unique(image.objects.labels)}
