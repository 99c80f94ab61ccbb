"""Average precision by pycocotools, the reference, or by hotcoco, which gives the same about a hundred times faster.

Neither keeps all detections at once, as no class knows of another: hotcoco is fed arrays of a few images with some of
the classes, and pycocotools, which asks for a dict for each, those of one class at a time. Images, annotations and
detections are numbered anew, so an annotation with the id 0, which pycocotools takes for no match, or an id above 2^53
cannot change a score.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from densenet_suite.detection.datasets import DetectionSet

Array = np.ndarray[Any, Any]
_IMAGES, _CLASSES = 64, 40  # hotcoco is fed at once; more take more memory, fewer more time


class Curves(NamedTuple):
    """Precision by recall, and the highest recall; -1 where there is nothing to find.

    Axes: t overlaps 0.5, 0.55 ... 0.95, r recalls 0, 0.01 ... 1, k classes, a all, small, medium and large objects,
    m limits.
    """

    precision: Array  # [t r k a m]
    recall: Array  # [t k a m]


def by_hotcoco(truth: DetectionSet, found: Mapping[int, Array], limits: Sequence[int]) -> Curves:
    """Score the images of `found`.

    Args:
        truth: the split.
        found: [n 6] x1, y1, x2, y2, score, label of each image that counts, by its index.
        limits: so many detections of a class in an image count, the best; ascending.
    """
    images, classes = sorted(found), range(len(truth.classes))
    objects = _objects(truth, images)
    groups = [classes[first : first + _CLASSES] for first in classes[::_CLASSES]]
    return _joined([_of_classes(labels, images, _among(labels, objects), found, limits) for labels in groups])


def _of_classes(
    labels: range, images: Sequence[int], objects: Array, found: Mapping[int, Array], limits: Sequence[int]
) -> Curves:
    """Score some classes; `objects` are theirs."""
    from hotcoco import Params, StreamingEval

    params = Params("bbox")
    params.max_dets = list(limits)
    stream = StreamingEval(_categories(labels), "bbox", params=params)
    for start in range(0, len(images), _IMAGES):
        some = images[start : start + _IMAGES]
        first, last = objects[:, 0].searchsorted([some[0] + 1, some[-1] + 2])
        annotations = _annotations(objects[first:last])
        stream.update([{"id": i + 1} for i in some], annotations, _among(labels, _detections(found, some)))
    evaluation: Any = stream.finalize()
    evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"])


def by_pycocotools(truth: DetectionSet, found: Mapping[int, Array], limits: Sequence[int]) -> Curves:
    """Do the same as `by_hotcoco`."""
    images = sorted(found)
    objects, detections = _objects(truth, images), _detections(found, images)
    classes = [range(label, label + 1) for label in range(len(truth.classes))]
    return _joined([_of_class(one, _among(one, objects), _among(one, detections), limits) for one in classes])


def _of_class(labels: range, objects: Array, detections: Array, limits: Sequence[int]) -> Curves:
    """Score one class; an image that has nothing of it changes nothing, and is left out."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = [
        {
            "id": number,
            "image_id": int(image),
            "category_id": int(category),
            "bbox": [x, y, width, height],
            "area": width * height,
            "score": score,
        }
        for number, (image, x, y, width, height, score, category) in enumerate(detections.tolist(), 1)
    ]
    images = [{"id": int(image)} for image in np.union1d(objects[:, 0], detections[:, 0])]
    shared = {"images": images, "categories": _categories(labels)}
    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        sides = COCO(), COCO()
        for side, entries in zip(sides, (_annotations(objects), results), strict=True):
            side.dataset = shared | {"annotations": entries}
            side.createIndex()
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"])


def _joined(curves: Sequence[Curves]) -> Curves:
    precision, recall = zip(*curves, strict=True)
    return Curves(np.concatenate(precision, 2), np.concatenate(recall, 1))


def _categories(labels: range) -> list[dict[str, Any]]:
    return [{"id": label + 1, "name": str(label)} for label in labels]


def _annotations(objects: Array) -> list[dict[str, Any]]:
    return [
        {
            "id": int(number),
            "image_id": int(image),
            "category_id": int(category),
            "bbox": [x, y, width, height],
            "area": area,
            "iscrowd": int(crowd),
        }
        for image, x, y, width, height, area, crowd, number, category in objects.tolist()
    ]


def _objects(truth: DetectionSet, images: Sequence[int]) -> Array:
    """Return [m 9] image id, x, y, width, height, area, crowd, id, category id, in order of the images."""
    objects = [truth.images[index].objects for index in images]
    rows = np.empty((sum(len(one) for one in objects), 9))
    if len(rows):
        rows[:, 0] = np.repeat(np.array(images) + 1, [len(one) for one in objects])
        rows[:, 1:5] = np.concatenate([one.boxes for one in objects])
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 5] = np.concatenate([one.areas for one in objects])
        rows[:, 6] = np.concatenate([one.crowd for one in objects])
        rows[:, 7] = np.arange(1, len(rows) + 1)
        rows[:, 8] = np.concatenate([one.labels for one in objects]) + 1
    return rows


def _detections(found: Mapping[int, Array], images: Sequence[int]) -> Array:
    """Return [n 7] image id, x, y, width, height, score, category id, in order of the images."""
    rows = np.empty((sum(len(found[index]) for index in images), 7))
    if len(rows):
        rows[:, 0] = np.repeat(np.array(images) + 1, [len(found[index]) for index in images])
        np.concatenate([found[index] for index in images], out=rows[:, 1:])
        rows[:, 3:5] -= rows[:, 1:3]
        rows[:, 6] += 1
    return rows


def _among(labels: range, rows: Array) -> Array:
    """Return the objects or detections of some classes."""
    return rows[(rows[:, -1] > labels.start) & (rows[:, -1] <= labels.stop)]
