"""COCO instances files, read with every check that a run depends on.

Nothing is repaired in silence. A fault that could make a run wrong (an id used twice, NaN in a box, a category that
does not exist) stops it with file, place and remedy; what is harmless to mend (a box that sticks out, one without an
area) is mended, counted and reported. Polygons and RLE are kept as they are; nothing here decodes them.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_suite.detection.annotation_checks import (
    ListedImage,
    check_headers,
    has_place,
    is_finite,
    note_other_order,
    note_unknown_class,
    read_annotation_text,
    stays_inside,
)
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings

_SHOWN_AS_SWAPPED = 0.05  # share of boxes that only fit as xyxy, from which the file is taken for xyxy
_ORPHANS_ALLOWED = 0.01  # share of annotations without an image that are dropped rather than refused


def read_coco(
    name: str,
    annotations: Path | str,
    images: Path | str,
    classes: ClassTable | None = None,
    findings: Findings | None = None,
) -> DetectionSet:
    """Read a COCO instances file.

    Args:
        name: of the split.
        annotations: the JSON file.
        images: the folder that its file names are relative to.
        classes: those of the training split or the model, which this file's categories are matched with by name; None
            to take the file's own, in the order of their ids.
        findings: takes what is found; None for one of its own, at whose errors reading stops.

    Raises:
        DataError: the file cannot be read, or holds faults that would make a run wrong: all kinds at once.
    """
    annotations, images = Path(annotations), Path(images)
    findings = findings or Findings(str(annotations))
    return read_content(name, annotations, _load_json(annotations), images.joinpath, classes, findings)


def read_content(
    name: str,
    where: Path,
    content: Mapping[str, Any],
    locate: Callable[[str], Path],
    classes: ClassTable | None,
    findings: Findings,
) -> DetectionSet:
    """Read what a COCO file holds, from wherever it comes.

    Args:
        name: of the split.
        where: the file or folder that it is from.
        content: with the lists images, annotations and categories.
        locate: gives the path of a file name.
        classes: see `read_coco`.
        findings: takes what is found.

    Raises:
        DataError: there are faults that would make a run wrong: all kinds at once.
    """
    reader = _CocoReader(content, locate, findings)
    labels = reader.read_categories(classes)
    files = reader.read_images()
    findings.raise_errors()
    objects = reader.read_annotations(files, labels)
    findings.raise_errors()
    return DetectionSet(name, where, reader.classes, reader.assemble(files, objects), findings)


def _load_json(path: Path) -> Mapping[str, Any]:
    where = str(path)
    text = read_annotation_text(path)
    if not text.strip():
        raise DataError("annotation file is empty", where=where, hint="export the dataset again")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"annotation file is not valid JSON: {error.msg}",
            where=f"{where}:{error.lineno}:{error.colno}",
            hint="the file is cut off or was edited by hand; export it again",
        ) from None
    except (RecursionError, ValueError) as error:  # a number of more than 4300 digits is a ValueError
        raise DataError(f"annotation file is no sane JSON: {error}", where=where) from None
    if not isinstance(content, dict):
        raise DataError(
            f"annotation file holds a {type(content).__name__}, not a COCO object",
            where=where,
            hint="a list of results is no dataset: the keys images, annotations and categories are needed",
        )
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise DataError(
            f"annotation file lacks the lists {', '.join(missing)}",
            where=where,
            hint="this is not COCO format",
        )
    return content


class _Object(NamedTuple):
    """A sound annotation: its box (x, y, width, height), its label, and the rest of it as it is written."""

    box: list[float]
    label: int
    annotation: Mapping[str, Any]


class _CocoReader:
    """Turns the three lists of a file into images with objects, noting faults as it goes."""

    def __init__(self, content: Mapping[str, Any], locate: Callable[[str], Path], findings: Findings):
        self.content = content
        self.locate = locate
        self.findings = findings
        self.classes = ClassTable((), ())
        self._annotation_ids: set[int] = set()
        self._as_xyxy = 0  # boxes that only fit as x1, y1, x2, y2

    def read_categories(self, classes: ClassTable | None) -> dict[int, int]:
        """Return the label of each category id."""
        names: dict[int, str] = {}
        for i, category in enumerate(self.content["categories"]):
            place = f"categories[{i}]"
            if not isinstance(category, dict) or not _is_id(category.get("id")):
                self.findings.error("category-id", f"{place}.id is {_shown(category, 'id')}, not a whole number")
                continue
            name = category.get("name")
            if not isinstance(name, str) or not name:
                self.findings.error("category-name", f"{place}.name is {name!r}, not a name")
                continue
            if category["id"] in names:
                self.findings.error("category-id-twice", f"{place}.id {category['id']} is used twice")
            names[category["id"]] = name
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        for name in twice:
            self.findings.error("category-name-twice", f"the category name {name!r} stands for several ids")
        if not names:
            self.findings.error("no-categories", "the list of categories is empty", "name at least one class")
        if classes is None:
            ids = sorted(names)
            self.classes = ClassTable(tuple(names[i] for i in ids), tuple(ids))
            return {category: label for label, category in enumerate(ids)}
        self.classes = classes
        note_other_order([names[i] for i in sorted(names)], classes, self.findings)
        known = {name: label for label, name in enumerate(classes.names)}
        annotations = [a for a in self.content["annotations"] if isinstance(a, dict)]
        used = {a["category_id"] for a in annotations if _is_id(a.get("category_id"))}
        for category, name in names.items():
            if name not in known and category in used:
                note_unknown_class(f"category {name!r}", name, classes, self.findings)
        return {category: known[name] for category, name in names.items() if name in known}

    def read_images(self) -> dict[int, ListedImage]:
        """Return the entries by id, checked but for their files."""
        files: dict[int, ListedImage] = {}
        for i, image in enumerate(self.content["images"]):
            place = f"images[{i}]"
            if not _has_id(image):
                self.findings.error("image-id", f"{place}.id is {_shown(image, 'id')}, not a whole number")
                continue
            if image["id"] in files:
                self.findings.error(
                    "image-id-twice",
                    f"{place}.id {image['id']} is used twice",
                    "the boxes of two pictures would be mixed: give every image an id of its own",
                )
                continue
            file_name = image.get("file_name")
            if not isinstance(file_name, str) or not file_name:
                self.findings.error("file-name", f"{place}.file_name is {file_name!r}, not a name")
                continue
            if not stays_inside(file_name):
                self.findings.error(
                    "file-outside",
                    f"{place}.file_name {file_name!r} leads out of the image folder",
                    "file names are relative to the image folder and stay inside it",
                )
                continue
            sides = [image.get(side) for side in ("height", "width")]
            if any(side is not None and (not _is_id(side) or side < 1) for side in sides):
                self.findings.error("image-size", f"{place} has height {sides[0]!r} and width {sides[1]!r}")
                continue
            files[image["id"]] = ListedImage(image["id"], self.locate(file_name), place, (sides[0], sides[1]))
        if not self.content["images"]:
            self.findings.error("no-images", "the list of images is empty")
        check_headers(list(files.values()), self.findings)
        return files

    def read_annotations(self, files: Mapping[int, ListedImage], labels: Mapping[int, int]) -> dict[int, list[_Object]]:
        """Return the sound annotations of each image."""
        by_image: dict[int, list[_Object]] = {key: [] for key in files}
        orphans = 0
        annotations = self.content["annotations"]
        refused = {image["id"] for image in self.content["images"] if _has_id(image)} - files.keys()
        for i, annotation in enumerate(annotations):
            if not isinstance(annotation, dict):
                what = f"annotations[{i}] is a {type(annotation).__name__}, not an object"
                self.findings.error("annotation", what)
                continue
            file = files.get(annotation["image_id"]) if _is_id(annotation.get("image_id")) else None
            if file is None:
                if _is_id(annotation.get("image_id")) and annotation["image_id"] in refused:
                    continue  # the fault is the image's, and told there
                orphans += 1
                self.findings.warning(
                    "annotation-without-image",
                    f"{_place(i, annotation)} is of the image {annotation.get('image_id')!r}, which is not listed",
                )
                continue
            if not _is_id(annotation.get("category_id")) or annotation["category_id"] not in labels:
                self.findings.error(
                    "category-unknown",
                    f"{_place(i, annotation)}.category_id {annotation.get('category_id')!r} is not in categories",
                    f"the ids are {', '.join(map(str, list(labels)[:8]))}",
                )
                continue
            box = four_numbers(annotation.get("bbox"))
            if box is None or not _lies_inside(box, file):
                box = self._examine_box(box, annotation, file, _place(i, annotation))
                if box is None:
                    continue
            self._note_id(i, annotation)
            by_image[file.id].append(_Object(box, labels[annotation["category_id"]], annotation))
        if orphans > _ORPHANS_ALLOWED * len(annotations):
            self.findings.error(
                "annotations-without-image",
                f"{orphans} of {len(annotations)} annotations are of images that are not listed",
                "the lists images and annotations belong to different exports",
            )
        if self._as_xyxy > _SHOWN_AS_SWAPPED * max(1, len(annotations)):
            self.findings.error(
                "boxes-xyxy",
                f"{self._as_xyxy} of {len(annotations)} boxes leave their image as x, y, width, height, "
                "and fit as x1, y1, x2, y2",
                "COCO boxes are x, y, width, height: convert them",
            )
        return by_image

    def _examine_box(
        self, box: list[float] | None, annotation: Mapping[str, Any], file: ListedImage, place: str
    ) -> list[float] | None:
        """Record what is wrong with a box that does not simply lie inside its image; return it if it is of use."""
        given = annotation.get("bbox")
        if box is None:
            self.findings.error("box-format", f"{place}.bbox is {given!r}, not four numbers")
            return None
        if not is_finite(box, f"{place}.bbox is {box}", self.findings):
            return None
        x, y, width, height = box
        if width < 0 or height < 0:
            self.findings.error(
                "box-negative",
                f"{place}.bbox is {given!r}: its width or height is negative",
                "COCO boxes are x, y, width, height; was this exported as x1, y1, x2, y2?",
            )
            return None
        self._as_xyxy += _fits_only_as_xyxy(box, file)
        kept = has_place((x, y, x + width, y + height), file, f"{place}.bbox {box}", self.findings)
        return box if kept else None

    def _note_id(self, i: int, annotation: Mapping[str, Any]) -> None:
        key = annotation.get("id")
        if not _is_id(key):
            what = f"{_place(i, annotation)} has no whole number as id; it is kept"
            self.findings.warning("annotation-id", what)
        elif key in self._annotation_ids:
            what = f"{_place(i, annotation)} has an id that is used twice; both are kept"
            self.findings.warning("annotation-id-twice", what)
        else:
            assert isinstance(key, int)
            self._annotation_ids.add(key)

    def assemble(
        self, files: Mapping[int, ListedImage], objects: Mapping[int, Sequence[_Object]]
    ) -> tuple[LabelledImage, ...]:
        """Return the images with their objects, in the order of the file."""
        images = []
        for file in (file for file in files.values() if file.is_readable):
            found = _objects(objects[file.id])
            images.append(LabelledImage(file.id, file.path, file.height, file.width, found))
        return tuple(images)


def _objects(found: Sequence[_Object]) -> Objects:
    boxes = np.array([entry.box for entry in found], np.float64).reshape(-1, 4)
    given = [entry.annotation for entry in found]
    areas = [a["area"] if _is_area(a.get("area")) else e.box[2] * e.box[3] for a, e in zip(given, found, strict=True)]
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        boxes=boxes,
        labels=np.array([entry.label for entry in found], np.int64),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in given], bool),
        areas=np.array(areas, np.float64),
        ids=tuple(a["id"] if _is_id(a.get("id")) else i for i, a in enumerate(given)),
        segmentations=tuple(a.get("segmentation") for a in given),
    )


def _place(i: int, annotation: Mapping[str, Any]) -> str:
    return f"annotations[{i}] (id {annotation.get('id')!r})"


def four_numbers(box: Any) -> list[float] | None:
    """Return the four numbers that a box of JSON is, if it is."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in box):
        return None
    return [_float(value) for value in box]


def _lies_inside(box: Sequence[float], file: ListedImage) -> bool:
    """Say whether nothing is to be said of a box; NaN compares as false."""
    x, y, width, height = box
    inside = x >= 0 and y >= 0 and x + width <= file.width and y + height <= file.height
    return inside and x + width > x and y + height > y


def _fits_only_as_xyxy(box: Sequence[float], file: ListedImage) -> bool:
    x, y, width, height = box
    leaves = x + width > file.width + 1 or y + height > file.height + 1
    return leaves and x < width <= file.width + 1 and y < height <= file.height + 1


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and _is_id(entry.get("id"))


def _is_area(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < _float(value) < math.inf


def _float(value: int | float) -> float:
    """Return a number of JSON, whose whole numbers have no end, as a float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(entry: Any, key: str) -> str:
    return repr(entry.get(key)) if isinstance(entry, dict) else f"in a {type(entry).__name__}"
