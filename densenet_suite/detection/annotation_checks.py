"""What readers of every annotation format check alike: pictures, classes and boxes.

A reader turns its files into `ListedImage`s and `ListedBox`es, with the place that each stands at; the rules, what is
mended and what stops a run, are here, and so a dataset gives the same objects in whatever format it is written.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.headers import read_headers
from densenet_suite.image_opening import ImageRecord, check_depth, read_header
from densenet_suite.images import IMAGE_SUFFIXES
from densenet_suite.registry import did_you_mean

_BEYOND_PICTURES = 1e9  # pixels; squares of larger numbers lose their meaning, and at last are infinite


@dataclass
class ListedImage:
    """An image that annotations name; its size becomes that of the picture, once the header has been read.

    Attributes:
        id: of the image in its dataset.
        path: of the file.
        place: where it is named.
        stated: height and width that the annotations give it.
        height: of the upright picture.
        width: of the upright picture.
    """

    id: int
    path: Path
    place: str
    stated: tuple[int | None, int | None] = (None, None)
    height: int = 0
    width: int = 0

    @property
    def is_readable(self) -> bool:
        """Whether the header of the picture could be read."""
        return self.height > 0


@dataclass(frozen=True)
class ListedBox:
    """A box that annotations hold.

    Attributes:
        name: of its class.
        corners: xyxy in pixels of the file.
        what: its place and its numbers, as they are written, for messages.
        crowd: it is left out of training, and detections on it are forgiven.
    """

    name: str
    corners: tuple[float, float, float, float]
    what: str
    crowd: bool = False


def read_annotation_text(path: Path, limit: int | None = None) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: of the file.
        limit: of its size in bytes.

    Raises:
        DataError: it is not there, too large, or no such text.
    """
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8-sig") if limit is None or size <= limit else None
    except FileNotFoundError:
        raise DataError("annotation file does not exist", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise DataError(f"annotation file cannot be read: {error}", where=str(path)) from None
    if text is None:
        raise DataError(f"annotation file has {size:,} bytes, the limit is {limit:,}", where=str(path))
    return text


def stays_inside(file_name: str) -> bool:
    """Say whether a file name leads to no place outside the folder that it is relative to."""
    depth = 0
    path = PurePosixPath(file_name.replace("\\", "/"))
    if path.is_absolute() or Path(file_name).is_absolute():
        return False
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return False
    return True


def is_below(path: Path, folder: Path) -> bool:
    """Say whether a path, as it is written, is a folder or lies below it."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def image_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder, searched to its depths, sorted; hidden files are no part of it."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in found if not path.name.startswith(".") and path.is_file())


def check_headers(images: Sequence[ListedImage], findings: Findings) -> None:
    """Read the size of each picture from its header, and hold it against the size that is stated."""

    def header(path: Path) -> ImageRecord:
        record = read_header(path)
        check_depth(record)
        return record

    records = read_headers([image.path for image in images], header, findings, [image.place for image in images])
    for image, record in zip(images, records, strict=True):
        if record is None:
            continue
        found = image.height, image.width = record.height, record.width
        if None not in image.stated and image.stated != found:
            turned = image.stated == (found[1], found[0])
            findings.error(
                "image-size-wrong",
                f"{image.place} says {image.stated[1]}x{image.stated[0]} (width x height), "
                f"the picture {image.path.name} is {found[1]}x{found[0]}",
                "the file's EXIF orientation turns the picture, and boxes must be those of the upright one"
                if turned
                else "boxes would lie elsewhere: export the annotations for these files",
            )


def note_unknown_class(what: str, name: str, classes: ClassTable, findings: Findings) -> None:
    """Record a class that a model has not been trained on; `what` says where it stands."""
    hint = did_you_mean(name, classes.names) or f"the classes are {', '.join(classes.names[:8])}"
    findings.error("class-unknown", f"{what} is not among the classes trained on", hint)


def note_other_order(names: Sequence[str], classes: ClassTable, findings: Findings) -> None:
    """Record that a file lists other classes, or in another order, than those that it is matched with by name."""
    if tuple(names) == classes.names:
        return
    first = next((i for i, pair in enumerate(zip(names, classes.names, strict=False)) if pair[0] != pair[1]), None)
    what = (
        f"there are {len(names)} classes here and {len(classes)} to train on"
        if first is None
        else f"class number {first} is {names[first]!r} here and {classes.names[first]!r} to train on"
    )
    findings.note("class-order", f"{what}: they are matched by name")


def to_number(text: str) -> float | None:
    """Return the number that a text is, if it is one."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def is_finite(values: Sequence[float], what: str, findings: Findings) -> bool:
    """Say whether the numbers of a box are numbers; record the box where they are not."""
    if all(abs(value) < _BEYOND_PICTURES for value in values):
        return True
    finite = all(math.isfinite(value) for value in values)
    findings.error("box-not-finite", f"{what}: {'far beyond any picture' if finite else 'NaN or infinity'}")
    return False


def has_place(corners: Sequence[float], image: ListedImage, what: str, findings: Findings) -> bool:
    """Say whether some of a box is inside the picture; record what is dropped and what will be clipped.

    Args:
        corners: xyxy in pixels of the file.
        image: the picture.
        what: the box, as messages call it.
        findings: where it is recorded.
    """
    if not image.is_readable:
        return False  # which has been said of the picture
    x1, y1, x2, y2 = corners
    size = f"{image.width}x{image.height}"
    if x2 <= x1 or y2 <= y1:
        findings.warning("box-without-area", f"{what} has no area and is dropped")
        return False
    if x1 >= image.width or y1 >= image.height or x2 <= 0 or y2 <= 0:
        findings.warning("box-outside", f"{what} lies outside its {size} image and is dropped")
        return False
    # labelling tools round to hundredths, so up to a pixel of excess is no fault
    if x1 < -1 or y1 < -1 or x2 > image.width + 1 or y2 > image.height + 1:
        findings.warning("box-clipped", f"{what} sticks out of its {size} image and is clipped")
    return True


def assemble(
    name: str,
    where: Path,
    listed: Sequence[tuple[ListedImage, Sequence[ListedBox]]],
    classes: ClassTable | None,
    own: ClassTable | None,
    findings: Findings,
) -> DetectionSet:
    """Check classes and boxes, and make a split of those that are sound.

    Args:
        name: of the split.
        where: its annotations.
        listed: images whose headers have been read, and their boxes.
        classes: those of the training split or the model; None to take the file's own.
        own: those that the file lists; None where it has no list, for the names that occur, sorted.
        findings: what has been found so far.

    Raises:
        DataError: there are errors among the findings.
    """
    used: dict[str, str] = {}
    for _, boxes in listed:
        for box in boxes:
            used.setdefault(box.name, box.what)
    if classes is not None and own is not None:
        note_other_order(own.names, classes, findings)
    table = classes or own or ClassTable.numbered(sorted(used))
    if not len(table):
        findings.error("no-classes", "no image has an object, so that there are no classes", "label some objects")
    if not listed:
        findings.error("no-images", "there are no images")
    labels = {class_name: label for label, class_name in enumerate(table.names)}
    for class_name, what in used.items():
        if class_name not in labels:
            note_unknown_class(f"class {class_name!r} ({what})", class_name, table, findings)
    sound = [
        (image, [box for box in boxes if _is_sound(box, image, findings) and box.name in labels])
        for image, boxes in listed
        if image.is_readable
    ]
    findings.raise_errors()
    images, count = [], 0
    for image, boxes in sound:
        objects = _objects(boxes, labels, count + 1)
        images.append(LabelledImage(image.id, image.path, image.height, image.width, objects))
        count += len(boxes)
    return DetectionSet(name, where, table, tuple(images), findings)


def _is_sound(box: ListedBox, image: ListedImage, findings: Findings) -> bool:
    x1, y1, x2, y2 = box.corners
    if not is_finite(box.corners, box.what, findings):
        return False
    if x2 < x1 or y2 < y1:
        findings.error(
            "box-negative",
            f"{box.what}: its width or height is negative",
            "are corners exchanged, or is this another format's order of numbers?",
        )
        return False
    return has_place(box.corners, image, box.what, findings)


def _objects(boxes: Sequence[ListedBox], labels: Mapping[str, int], first: int) -> Objects:
    corners = np.array([box.corners for box in boxes], np.float64).reshape(-1, 4)
    return Objects(
        boxes=corners,
        labels=np.array([labels[box.name] for box in boxes], np.int64),
        crowd=np.array([box.crowd for box in boxes], bool),
        areas=(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]),
        ids=tuple(range(first, first + len(boxes))),
        segmentations=(None,) * len(boxes),
    )
