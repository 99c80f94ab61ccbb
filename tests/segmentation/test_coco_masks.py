"""Masks from polygons and run lengths."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.segmentation.coco_masks import read_categories, read_coco_masks
from densenet_suite.segmentation.layout import CocoFile, name_split
from densenet_suite.segmentation.structures import MaskClasses

SIZE = (6, 8)
CLASSES = MaskClasses(("background", "cat", "dog"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
OVERLAPPING = MaskClasses(("cat", "dog"), ((1, 1, 1), (2, 2, 2)), multilabel=True)
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def _box(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def _annotation(segmentation, category=3, **more):
    return {"id": 1, "image_id": 1, "category_id": category, "segmentation": segmentation, **more}


@pytest.fixture
def write(tmp_path):
    """Write a COCO file of one image and return where it is."""

    def write(annotations, images=None, categories=CATEGORIES):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
        images = [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}] if images is None else images
        path = tmp_path / "instances.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return CocoFile(path, tmp_path)

    return write


def _read(files, classes=CLASSES):
    findings = Findings("x.json")
    found = list(read_coco_masks(files, classes, findings))
    findings.raise_errors()
    return found, findings


def _mask(files, classes=CLASSES):
    ((_, mask),), _ = _read(files, classes)
    return mask.decode().mask


def _expected(*boxes, value=1):
    mask = np.zeros(SIZE, np.uint8)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = value
    return mask


def test_polygons_are_filled(write):
    files = write([_annotation(_box(1, 1, 4, 5) + _box(5, 0, 7, 2))])
    found = _mask(files)
    assert found.dtype == np.uint8
    assert (found == _expected((1, 1, 4, 5), (5, 0, 7, 2))).all()


def test_an_image_without_objects_is_background(write):
    assert (_mask(write([])) == 0).all()
    assert (_mask(write([]), OVERLAPPING) == np.zeros((2, *SIZE))).all()


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_are_read(write, compressed):
    truth = np.random.default_rng(0).integers(0, 2, SIZE, np.uint8)
    runs = coco.encode(np.asfortranarray(truth))
    counts = runs["counts"].decode()
    if not compressed:
        flat = truth.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *edges, flat.size]).tolist()
        counts = [0, *counts] if flat[0] else counts
    assert (_mask(write([_annotation({"size": list(SIZE), "counts": counts})])) == truth).all()


@pytest.mark.parametrize("order", [1, -1])
def test_the_smaller_object_is_in_front(write, order):
    annotations = [_annotation(_box(0, 0, 8, 6), 7), _annotation(_box(2, 2, 4, 4), 3)]
    found = _mask(write(annotations[::order]))
    assert (found == np.where(_expected((2, 2, 4, 4)), 1, 2)).all()


def test_overlapping_classes_keep_both(write):
    files = write([_annotation(_box(0, 0, 5, 6), 7), _annotation(_box(2, 2, 7, 4), 3)])
    assert (_mask(files, OVERLAPPING) == [_expected((2, 2, 7, 4)), _expected((0, 0, 5, 6))]).all()


def test_crowds_are_ignored_where_no_object_covers_them(write):
    files = write([_annotation(_box(0, 0, 5, 6), 7, iscrowd=1), _annotation(_box(0, 0, 8, 2), 3)])
    expected = np.maximum(_expected((0, 2, 5, 6), value=255), _expected((0, 0, 8, 2)))
    assert (_mask(files) == expected).all()
    assert (_mask(files, OVERLAPPING) == [_expected((0, 0, 8, 2)), _expected((0, 0, 5, 6), value=255)]).all()
    _, findings = _read(files)
    assert [str(finding) for finding in findings] == [
        "crowd region annotations[0] is ignored where no object covers it"
    ]


def test_categories_are_matched_by_name(write):
    assert read_categories(write([]).annotations) == ("cat", "dog")
    files = write([_annotation(_box(0, 0, 2, 2), 9)], categories=[{"id": 9, "name": "dog"}])
    assert _mask(files).max() == 2


def test_what_is_lost_is_counted(write):
    tiny = _annotation(_box(1.1, 1.1, 1.2, 1.2))
    orphan = {**_annotation(_box(0, 0, 2, 2)), "image_id": 5}
    (_,), findings = _read(write([tiny, orphan]))
    assert {finding.check: str(finding) for finding in findings} == {
        "object-without-pixel": "annotations[0] covers no pixel and is lost",
        "annotation-without-image": "annotations[1] is of no image that is listed",
    }


@pytest.mark.parametrize(
    ("segmentation", "what"),
    [
        (None, "is None, and so no outline"),
        ([], "is [], and so no outline"),
        ([[1, 1, 2, 2]], "holds a polygon that is not three or more points x, y"),
        ([[1, 1, 2, 2, 3, 3, 4]], "holds a polygon that is not three or more points x, y"),
        ([[1, 1, 2, 2, 3, "x"]], "holds a coordinate that is no number"),
        ([[1, 1, 2, 2, 3, float("nan")]], "holds a coordinate that is no number"),
        ([[1, 1, 2, 2, 1e9, 3]], "holds a point far outside of its 8x6 image"),
        ({"size": [8, 6], "counts": [48]}, "is of size [8, 6], its image of [6, 8] (height, width)"),
        ({"size": [6, 8], "counts": [47]}, "has run lengths that do not add up to the 48 pixels of its image"),
        ({"size": [6, 8], "counts": [-1, 49]}, "has run lengths that do not add up to the 48 pixels of its image"),
        ({"size": [6, 8], "counts": ""}, "has run lengths that do not add up to the 48 pixels of its image"),
        ({"size": [6, 8], "counts": "ooo"}, "has run lengths that do not add up to the 48 pixels of its image"),
        ({"size": [6, 8]}, "has run lengths that do not add up to the 48 pixels of its image"),
    ],
)
def test_broken_outlines_are_refused(write, segmentation, what):
    with pytest.raises(DataError) as caught:
        _read(write([_annotation(segmentation)]))
    (problem,) = caught.value.problems
    assert (problem.what, problem.hint) == (
        f"annotations[0].segmentation {what}",
        "a mask needs polygons or run lengths",
    )


@pytest.mark.parametrize(
    ("annotation", "what"),
    [
        (7, "annotations[0] names no image"),
        ({"image_id": [1]}, "annotations[0] names no image"),
        ({"image_id": 1}, "annotations[0].category_id None is not listed"),
        ({"image_id": 1, "category_id": {}}, "annotations[0].category_id {} is not listed"),
    ],
)
def test_broken_annotations_are_refused(write, annotation, what):
    with pytest.raises(DataError) as caught:
        _read(write([annotation]))
    assert caught.value.problems[0].what == what


@pytest.mark.parametrize(
    ("images", "what"),
    [
        ([{"file_name": "a.png"}], "images[0] has no whole number of its own as id"),
        ([{"id": 1, "file_name": "a.png"}] * 2, "images[1] has no whole number of its own as id"),
        ([{"id": 1}], "images[0].file_name is None, not a file in the folder of images"),
        ([{"id": 1, "file_name": "../a.png"}], "images[0].file_name is '../a.png', not a file in the folder of images"),
    ],
)
def test_broken_images_are_refused(write, images, what):
    with pytest.raises(DataError) as caught:
        _read(write([], images))
    assert caught.value.problems[0].what == what


def test_the_size_of_the_picture_counts(write, tmp_path):
    with pytest.raises(DataError) as caught:
        _read(write([], [{"id": 1, "file_name": "a.png", "height": 8, "width": 6}]))
    (problem,) = caught.value.problems
    assert problem.what == f"images[0] says 6x8 (width x height), the picture {tmp_path / 'a.png'} is 8x6"
    assert problem.hint == "polygons would lie elsewhere: export the annotations for these files"


def test_a_missing_picture_is_named(write, tmp_path):
    with pytest.raises(DataError) as caught:
        _read(write([], [{"id": 1, "file_name": "b.png"}]))
    assert caught.value.problems[0].what == f"image file does not exist: {tmp_path / 'b.png'} (images[0])"


def test_a_category_of_no_class_is_refused_where_it_is_used(write):
    cats = MaskClasses(("background", "cat"), ((0, 0, 0), (1, 1, 1)))
    assert len(_read(write([_annotation(_box(0, 0, 2, 2))]), cats)[0]) == 1
    with pytest.raises(DataError) as caught:
        _read(write([_annotation(_box(0, 0, 2, 2), 7)]), cats)
    (problem,) = caught.value.problems
    assert problem.what == "category 'dog' is not among the classes trained on"
    assert problem.hint == "the classes are background, cat"


@pytest.mark.parametrize(
    "categories", [[{"id": 1}], [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], [7], [{"id": "1", "name": "a"}]]
)
def test_broken_categories_are_refused(write, categories):
    with pytest.raises(DataError, match=r"categories\[\d\] is ") as caught:
        read_categories(write([], categories=categories).annotations)
    assert caught.value.problems[0].hint == "each category has an id and a name of its own"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "annotation file does not exist"),
        ("{", "annotation file cannot be read: "),
        ("[" * 100_000, "annotation file cannot be read: "),
        ("[]", "annotation file lacks the lists images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "annotation file lacks the lists annotations"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path, text, what):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=what) as caught:
        read_categories(path)
    assert caught.value.problems[0].where == str(path)


def test_real_polygons_agree_with_the_masks_they_were_made_from(data_folder):
    root = data_folder("dsb2018-nuclei")
    files = name_split(root, "val", "images/val", "annotations/instances_val.json")
    classes = MaskClasses(("background", "nucleus"), ((0, 0, 0), (1, 1, 1)))
    found, findings = _read(files, classes)
    assert len(found) == 10
    assert not list(findings)
    for path, mask in found:
        ours = mask.decode().mask
        theirs = np.asarray(Image.open(root / "masks/val" / path.name)) == 255
        # pycocotools loses some pixels at the rims of these polygons, and adds none
        assert not (ours == 1)[~theirs].any()
        assert (ours == 1)[theirs].mean() > 0.98
