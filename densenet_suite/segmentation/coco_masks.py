"""Masks from the polygons and run lengths of a COCO instances file.

Where classes exclude each other, a pixel belongs to the smallest object on it, and to `background` where there is none.
Crowd regions are outlines of many things and their gaps; what no object covers in them is 255.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.image_opening import DamagedImageError
from densenet_suite.registry import did_you_mean
from densenet_suite.segmentation.layout import CocoFile
from densenet_suite.segmentation.masks import DecodedMask
from densenet_suite.segmentation.pairing import stays_inside
from densenet_suite.segmentation.scene_files import read_scene_header
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

Array = np.ndarray[Any, Any]
BACKGROUND = "background"


@dataclass(frozen=True)
class Region:
    """Pixels of one class: the lengths of runs, in turn outside and inside, column by column."""

    label: int
    runs: tuple[int, ...]

    def inside(self, size: tuple[int, int]) -> Array:
        """Return which pixels [h w] it covers."""
        flat = np.repeat(np.arange(len(self.runs)) % 2 == 1, self.runs)
        return flat.reshape(size[::-1]).T


@dataclass(frozen=True)
class PolygonMask:
    """The mask of an image in a COCO file: its regions, in the order in which they are painted."""

    annotations: Path
    size: tuple[int, int]
    classes: MaskClasses
    regions: tuple[Region, ...]
    crowds: tuple[Region, ...] = ()

    @property
    def place(self) -> str:
        """The annotation file, for messages."""
        return str(self.annotations)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The annotation file."""
        return (self.annotations,)

    def decode(self) -> DecodedMask:
        """Return the mask, uint8 [h w] or [k h w]."""
        shape = (len(self.classes), *self.size) if self.classes.multilabel else self.size
        mask = np.zeros(shape, np.uint8)
        for region in self.crowds:
            layer = mask[region.label] if self.classes.multilabel else mask
            layer[region.inside(self.size)] = IGNORE
        for region in self.regions:
            layer = mask[region.label] if self.classes.multilabel else mask
            layer[region.inside(self.size)] = 1 if self.classes.multilabel else region.label
        return DecodedMask(mask)


def read_categories(annotations: Path) -> tuple[str, ...]:
    """Return the names of a file's categories in the order of their ids.

    Raises:
        DataError: the file is not in COCO format, or two categories have one name or id.
    """
    return tuple(_categories(_load(annotations), annotations).values())


def read_coco_masks(files: CocoFile, classes: MaskClasses, findings: Findings) -> Iterator[tuple[Path, PolygonMask]]:
    """Read the images of a COCO file and their masks.

    Args:
        files: the split.
        classes: with which the file's categories are matched by name.
        findings: takes what is wrong, all kinds at once; images with faults are left out.

    Raises:
        DataError: the file is not in COCO format, or images and sizes are not what it says.
    """
    content = _load(files.annotations)
    label_of = _labels(_categories(content, files.annotations), classes, content, findings)
    images = _images(content, files.images, findings)
    objects: dict[int, list[_Object]] = {key: [] for key in images}
    for i, annotation in enumerate(content["annotations"]):
        place = f"annotations[{i}]"
        if not isinstance(annotation, dict) or not _is_id(annotation.get("image_id")):
            findings.error("annotation", f"{place} names no image")
            continue
        key = annotation["image_id"]
        image = images.get(key)
        if image is None:
            if key not in images:
                findings.warning("annotation-without-image", f"{place} is of no image that is listed")
        elif not _is_id(annotation.get("category_id")) or annotation["category_id"] not in label_of:
            findings.error("category-unknown", f"{place}.category_id {annotation.get('category_id')!r} is not listed")
        else:
            found = _object(annotation, label_of[annotation["category_id"]], image.size, place, findings)
            if found is not None:
                objects[key].append(found)
    for key, image in images.items():
        if image is None:
            continue
        crowds = [found for found in objects[key] if found.crowd]
        for found in crowds:
            findings.warning("crowd-ignored", f"crowd region {found.place} is ignored where no object covers it")
        whole = sorted((found for found in objects[key] if not found.crowd), key=lambda found: -found.area)
        regions = _merged(whole), _merged(crowds)
        yield image.path, PolygonMask(files.annotations, image.size, classes, *regions)


@dataclass(frozen=True)
class _Image:
    path: Path
    size: tuple[int, int]


@dataclass(frozen=True)
class _Object:
    label: int
    runs: dict[str, Any]
    area: int
    crowd: bool
    place: str


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError("annotation file does not exist", where=str(path)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"annotation file cannot be read: {error}", where=str(path)) from None
    lists = ("images", "annotations", "categories")
    missing = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DataError(
            f"annotation file lacks the lists {', '.join(missing)}", where=str(path), hint="this is not COCO format"
        )
    return content


def _categories(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return the names by id, ascending."""
    found: dict[int, str] = {}
    for i, category in enumerate(content["categories"]):
        sound = isinstance(category, dict) and _is_id(category.get("id")) and isinstance(category.get("name"), str)
        if not sound or category["id"] in found or category["name"] in found.values():
            raise DataError(
                f"categories[{i}] is {category!r}",
                where=str(path),
                hint="each category has an id and a name of its own",
            )
        found[category["id"]] = category["name"]
    return dict(sorted(found.items()))


def _labels(
    categories: Mapping[int, str], classes: MaskClasses, content: Mapping[str, Any], findings: Findings
) -> dict[int, int]:
    annotations = [annotation for annotation in content["annotations"] if isinstance(annotation, dict)]
    for key, name in categories.items():
        if name not in classes.names and any(annotation.get("category_id") == key for annotation in annotations):
            hint = did_you_mean(name, classes.names) or f"the classes are {', '.join(classes.names[:8])}"
            findings.error("class-unknown", f"category {name!r} is not among the classes trained on", hint)
    findings.raise_errors()
    return {key: classes.names.index(name) for key, name in categories.items() if name in classes.names}


def _images(content: Mapping[str, Any], folder: Path, findings: Findings) -> dict[int, _Image | None]:
    """Return the images by id, with the sizes of the files; None for one that is damaged and left out."""
    found: dict[int, _Image | None] = {}
    for i, image in enumerate(content["images"]):
        place = f"images[{i}]"
        if not isinstance(image, dict) or not _is_id(image.get("id")) or image["id"] in found:
            findings.error("image-id", f"{place} has no whole number of its own as id")
            continue
        name = image.get("file_name")
        if not isinstance(name, str) or not name or not stays_inside(name):
            findings.error("file-name", f"{place}.file_name is {name!r}, not a file in the folder of images")
            continue
        try:
            record = read_scene_header(folder / name)
        except DataError as error:
            if isinstance(error, DamagedImageError) and findings.skip_damaged:
                findings.leave_out(folder / name, error.problems[0].what)
                found[image["id"]] = None
                continue
            findings.error("image-unusable", f"{error.problems[0].what}: {folder / name} ({place})")
            continue
        stated = (image.get("height", record.height), image.get("width", record.width))
        if stated != (record.height, record.width):
            findings.error(
                "image-size",
                f"{place} says {stated[1]}x{stated[0]} (width x height), "
                f"the picture {folder / name} is {record.width}x{record.height}",
                "polygons would lie elsewhere: export the annotations for these files",
            )
            continue
        found[image["id"]] = _Image(folder / name, (record.height, record.width))
    findings.raise_errors()
    return found


def _object(
    annotation: Mapping[str, Any], label: int, size: tuple[int, int], place: str, findings: Findings
) -> _Object | None:
    runs = _runs(annotation.get("segmentation"), size)
    if isinstance(runs, str):
        findings.error("segmentation", f"{place}.segmentation {runs}", "a mask needs polygons or run lengths")
        return None
    area = int(coco.area(runs))
    if area == 0:
        findings.warning("object-without-pixel", f"{place} covers no pixel and is lost")
        return None
    return _Object(label, runs, area, bool(annotation.get("iscrowd", 0)), place)


def _runs(segmentation: Any, size: tuple[int, int]) -> dict[str, Any] | str:
    """Return the run lengths of polygons or of run lengths, or what is wrong with them."""
    height, width = size
    if isinstance(segmentation, dict):
        return _checked_runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        return f"is {segmentation!r}, and so no outline"
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "holds a polygon that is not three or more points x, y"
        if not all(
            isinstance(v, int | float) and not isinstance(v, bool) and -math.inf < v < math.inf for v in polygon
        ):
            return "holds a coordinate that is no number"
        # far beyond the picture, pycocotools would draw lines of any length
        if any(not -side <= v <= 2 * side for v, side in zip(polygon, (width, height) * len(polygon), strict=False)):
            return f"holds a point far outside of its {width}x{height} image"
    return coco.merge(coco.frPyObjects(segmentation, height, width))


def _checked_runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any] | str:
    """Return run lengths that are known to fill the picture; pycocotools would read memory that is not theirs."""
    counts = segmentation.get("counts")
    if segmentation.get("size") != list(size):
        return f"is of size {segmentation.get('size')}, its image of {list(size)} (height, width)"
    runs = _uncompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(_is_id(run) and run >= 0 for run in runs) or sum(runs) != math.prod(size):
        return f"has run lengths that do not add up to the {math.prod(size)} pixels of its image"
    return coco.frPyObjects({"size": list(size), "counts": runs}, *size)


def _uncompressed(text: str) -> list[int]:
    """Read COCO's text form: 5 bits to a character, lowest first; from the fourth run on, relative to the last but one.

    Reference: cocoapi, common/maskApi.c, rleFrString.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def _merged(objects: Sequence[_Object]) -> tuple[Region, ...]:
    """Return one region for neighbours of one class in the order of painting, which saves decoding each."""
    groups = groupby(objects, key=lambda found: found.label)
    merged = [(label, coco.merge([found.runs for found in group])) for label, group in groups]
    return tuple(Region(label, tuple(_uncompressed(runs["counts"].decode()))) for label, runs in merged)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
