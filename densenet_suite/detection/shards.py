"""Boxes in sharded tars: `key.json` beside the picture of each sample; see `archives.shards` for the tars.

A sample's JSON holds `boxes` (xyxy in pixels) and `labels` (names of classes), of equal length, and, where they are
known, `crowd` (0 or 1), `areas`, `ids` and `segmentations` of the objects, and `id`, `height`, `width` of the picture.
Everything that a set holds is held; it is checked as COCO files are. Without an index the classes are the names that
occur, sorted.
"""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from densenet_suite.archives.members import open_binary
from densenet_suite.archives.shards import ShardSample, ShardSplit
from densenet_suite.archives.writing import write_samples
from densenet_suite.detection.coco_json import four_numbers, read_content
from densenet_suite.detection.coordinates import side_between
from densenet_suite.detection.datasets import DetectionSet, LabelledImage
from densenet_suite.detection.format_limits import shared_classes
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.images import IMAGE_SUFFIXES

_OPTIONAL = {"areas": "area", "crowd": "iscrowd", "ids": "id", "segmentations": "segmentation"}


def read_shards(
    name: str, files: ShardSplit, classes: ClassTable | None = None, findings: Findings | None = None
) -> DetectionSet:
    """Read a split from its shards.

    Args:
        name: of the split.
        files: the shards.
        classes: those of the training split or the model, matched by name; None for those of the index.
        findings: takes what is found; None for one of its own, at whose errors reading stops.

    Raises:
        DataError: a shard is damaged, or samples hold faults that would make a run wrong.
    """
    findings = findings or Findings(str(files.folder))
    places: dict[str, Path] = {}
    listed: list[tuple[str, dict[str, Any]]] = []
    for sample in files.samples():
        picture = _picture(sample)
        if picture is None:
            findings.warning("sample-without-picture", f"{sample.key} has no picture and is left out")
            continue
        file_name = f"{sample.key}.{picture}"
        if file_name in places:
            findings.error("sample-twice", f"{sample.key} is in two shards: {places[file_name].parents[1].name}")
            continue
        places[file_name] = sample.files[picture].path
        listed.append((file_name, _labels(sample, findings)))
    findings.raise_errors()
    ids = dict(files.classes) if files.classes is not None else _occurring(listed, files.folder)
    content = _coco_content(listed, ids)
    return read_content(name, files.folder, content, places.__getitem__, classes, findings)


def write_shards(sets: Mapping[str, DetectionSet], root: Path, *, limit: int = 256 * 2**20) -> dict[str, Findings]:
    """Write splits as sharded tars with an index, and return what was lost of each.

    Args:
        sets: the splits by their names, train first.
        root: folder of the dataset, which is empty.
        limit: bytes of a shard.

    Raises:
        DataError: the splits have different classes, or names that cannot be written.
    """
    classes = shared_classes(sets)

    def labels_of(split: str, number: int) -> dict[str, bytes]:
        sample = _sample(sets[split].images[number], classes)
        return {"json": json.dumps(sample, ensure_ascii=False, allow_nan=False).encode()}

    splits = {split: dataset.paths for split, dataset in sets.items()}
    return write_samples(splits, labels_of, root, dict(zip(classes.names, classes.ids, strict=True)), limit)


def _sample(image: LabelledImage, classes: ClassTable) -> dict[str, Any]:
    objects = image.objects
    return {
        "id": image.id,
        "height": image.height,
        "width": image.width,
        "boxes": objects.boxes.tolist(),
        "labels": [classes.names[label] for label in objects.labels],
        "crowd": objects.crowd.astype(int).tolist(),
        "areas": objects.areas.tolist(),
        "ids": list(objects.ids),
        "segmentations": list(objects.segmentations),
    }


def _picture(sample: ShardSample) -> str | None:
    return next((ending for ending in sample.files if f".{ending}" in IMAGE_SUFFIXES), None)


def _labels(sample: ShardSample, findings: Findings) -> dict[str, Any]:
    """Return the JSON of a sample; an empty one where it cannot be used."""
    member = sample.files.get("json")
    if member is None:
        findings.warning("sample-without-labels", f"{sample.key} has no .json: it counts as without objects")
        return {}
    try:
        with open_binary(member.path) as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        findings.error("sample-labels", f"{member} cannot be read: {error}")
        return {}
    lists = [content.get(key, []) for key in ("boxes", "labels")] if isinstance(content, dict) else []
    optional = [content[key] for key in _OPTIONAL if key in content] if lists else []
    sound = bool(lists) and all(isinstance(one, list) and len(one) == len(lists[0]) for one in (*lists, *optional))
    if not sound:
        what = f"{member} does not hold lists of equal length"
        findings.error("sample-labels", what, '{"boxes": [[x1, y1, x2, y2]], "labels": ["name of the class"]}')
        return {}
    return dict(content)


def _occurring(listed: list[tuple[str, dict[str, Any]]], folder: Path) -> dict[str, int]:
    names = {name for _, labels in listed for name in labels.get("labels", []) if isinstance(name, str)}
    if not names:
        raise DataError(
            "no sample has an object, and there is no index with the classes",
            where=str(folder),
            hint="label some objects",
        )
    return {name: i for i, name in enumerate(sorted(names), start=1)}


def _coco_content(listed: list[tuple[str, dict[str, Any]]], ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the same labels as a COCO file has them, whose checks then hold for them."""
    running = count(1)
    own = [labels.get("id") for _, labels in listed]
    keep = None not in own and len(set(map(repr, own))) == len(own)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (file_name, labels) in enumerate(listed, start=1):
        key = labels["id"] if keep else number
        sides: dict[str, Any] = {side: labels[side] for side in ("height", "width") if side in labels}
        images.append({"id": key, "file_name": file_name, **sides})
        for i, (box, name) in enumerate(zip(labels.get("boxes", []), labels.get("labels", []), strict=True)):
            entry: dict[str, Any] = {"id": next(running), "image_id": key, "bbox": _to_coco(box), "iscrowd": 0}
            entry["category_id"] = ids.get(name, name) if isinstance(name, str) else repr(name)
            entry |= {theirs: labels[ours][i] for ours, theirs in _OPTIONAL.items() if ours in labels}
            annotations.append(entry)
    categories = [{"id": key, "name": name} for name, key in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _to_coco(box: Any) -> Any:
    """Return x, y, width, height, or what is no box as it is."""
    corners = four_numbers(box)
    if corners is None:
        return box
    x1, y1, x2, y2 = corners
    return [x1, y1, side_between(x1, x2), side_between(y1, y2)]
