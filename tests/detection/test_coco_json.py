"""The reader of COCO files: what it accepts, mends and refuses."""

import csv
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError

# what the reader does with each file of the bad inputs: the check and the objects that are left, or part of the refusal
ACCEPTED = {
    "ok": (None, 30),
    "image_without_annotations": (None, 9),
    "only_crowd": (None, 30),
    "non_ascii_file_name": (None, 30),
    "huge_int_ids": (None, 30),
    "duplicate_annotation_id": ("annotation-id-twice", 30),
    "zero_width_box": ("box-without-area", 29),
    "negative_coords": ("box-clipped", 30),
    "box_outside_image": ("box-outside", 29),
    "box_partly_outside": ("box-clipped", 30),
}
REFUSED = {
    "missing_file": "image file does not exist: ",
    "duplicate_image_id": r"images\[3\]\.id 885 is used twice",
    "nan_coordinate": r"annotations\[0\] \(id 991\)\.bbox is \[nan, .*NaN or infinity",
    "unknown_category_id": r"annotations\[0\] \(id 991\)\.category_id 12 is not in categories",
    "path_traversal": r"images\[0\]\.file_name '\.\./outside\.jpg' leads out of the image folder",
    "malformed": "annotation file is not valid JSON: ",
    "empty": "annotation file is empty",
    "empty_object": "annotation file lacks the lists images, annotations, categories",
}


def _bad(data_folder, name):
    folder = data_folder("bad-inputs") / "coco"
    return folder / f"{name}.json", folder / "images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of 40 x 30 pixels (width x height), a.png to e.png."""
    root = tmp_path_factory.mktemp("images")
    for name in "abcde":
        Image.new("RGB", (40, 30)).save(root / f"{name}.png")
    return root


@pytest.fixture
def read(folder, tmp_path):
    def read(content, classes=None):
        path = tmp_path / "a.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_coco("train", path, folder, classes)

    return read


def _document(*annotations, images=None, categories=None):
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}] if images is None else images,
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20], "iscrowd": 0, **annotation}
            for i, annotation in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "cat"}] if categories is None else categories,
    }


def _problems(read, content, classes=None):
    with pytest.raises(DataError) as caught:
        read(content, classes)
    return caught.value.problems


def _refusal(read, content, classes=None):
    (problem,) = _problems(read, content, classes)
    return problem


def _checks(found):
    return {finding.check: finding.count for finding in found.findings}


# the bad inputs


def test_no_coco_file_of_the_manifest_is_without_an_expectation(data_folder):
    with open(data_folder("bad-inputs") / "manifest.csv", newline="", encoding="utf-8") as file:
        listed = {row["file"] for row in csv.DictReader(file)}
    ours = {f"coco/{name}.json" for name in (*ACCEPTED, *REFUSED)}
    assert {name for name in listed if name.startswith("coco/")} == ours


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_what_can_be_mended_is_counted(data_folder, name):
    check, left = ACCEPTED[name]
    found = read_coco("train", *_bad(data_folder, name))
    assert _checks(found) == ({} if check is None else {check: 1})
    assert all(finding.severity == "warning" for finding in found.findings)
    assert sum(len(image.objects) for image in found.images) == left


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_would_make_a_run_wrong_stops_it(data_folder, name):
    path, images = _bad(data_folder, name)
    with pytest.raises(DataError, match=REFUSED[name]) as caught:
        read_coco("train", path, images)
    (problem,) = caught.value.problems
    assert problem.where.startswith(str(path))


def test_malformed_json_gives_line_and_column(data_folder):
    path, images = _bad(data_folder, "malformed")
    with pytest.raises(DataError) as caught:
        read_coco("train", path, images)
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(path.read_text())
    assert caught.value.problems[0].where == f"{path}:{theirs.value.lineno}:{theirs.value.colno}"


def test_huge_ids_are_kept_exactly(data_folder):
    path, images = _bad(data_folder, "huge_int_ids")
    found = read_coco("train", path, images)
    listed = json.loads(path.read_text())
    assert [image.id for image in found.images] == [entry["id"] for entry in listed["images"]]
    assert max(image.id for image in found.images) > 2**63
    kept = {i for image in found.images for i in image.objects.ids}
    assert kept == {annotation["id"] for annotation in listed["annotations"]}


def test_a_crowd_region_is_kept_and_marked(data_folder):
    found = read_coco("train", *_bad(data_folder, "only_crowd"))
    assert all(image.objects.crowd.all() for image in found.images)
    assert found.report()["crowd_regions"] == 30


def test_boxes_of_all_orientations_are_those_of_the_upright_picture(data_folder):
    folder = data_folder("bad-inputs") / "exif"
    found = read_coco("train", folder / "annotations.json", folder / "images")
    assert list(found.findings) == []
    assert {(image.height, image.width) for image in found.images} == {(270, 360)}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco-official", "instances_train2017"),
        ("coco-mini", "instances_val2017"),
        ("bccd", "instances_val"),
    ],
)
def test_real_files_give_what_pycocotools_gives(data_folder, name, file, capsys):
    root = data_folder(name)
    path = root / "annotations" / f"{file}.json"
    images = next(f for f in (root / "images" / file[10:], root / file[10:], root / "images") if f.is_dir())
    found = read_coco("val", path, images)
    theirs = COCO(str(path))
    assert [image.id for image in found.images] == list(theirs.imgs)
    for image in found.images:
        listed = theirs.loadAnns(theirs.getAnnIds(image.id))
        assert list(image.objects.ids) == [entry["id"] for entry in listed]
        boxes = np.array([entry["bbox"] for entry in listed], float).reshape(-1, 4)
        np.testing.assert_allclose(image.objects.boxes, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        assert [found.classes.ids[label] for label in image.objects.labels] == [e["category_id"] for e in listed]
        np.testing.assert_allclose(image.objects.areas, [entry["area"] for entry in listed])
        assert image.objects.crowd.tolist() == [bool(entry["iscrowd"]) for entry in listed]


# what is read


def test_boxes_are_corners_in_pixels_of_the_file(read):
    (image,) = read(_document({"bbox": [1, 2.5, 10, 20]})).images
    assert image.objects.boxes.tolist() == [[1, 2.5, 11, 22.5]]
    assert image.objects.boxes.dtype == np.float64


def test_polygons_and_masks_are_kept_untouched(read):
    shapes = [[[1, 2, 11, 2, 11, 22]], {"counts": [5, 10], "size": [30, 40]}, [], None, [[float("nan"), 1e8]]]
    (image,) = read(_document(*({"segmentation": shape} for shape in shapes))).images
    assert repr(list(image.objects.segmentations)) == repr(shapes)


def test_missing_crowd_marks_and_areas_follow_from_the_box(read):
    document = _document({}, {"area": 12.5}, {"area": None}, {"area": -1}, {"area": float("nan")}, {"area": "7"})
    del document["annotations"][0]["iscrowd"]
    (image,) = read(document).images
    assert image.objects.areas.tolist() == [200, 12.5, 200, 200, 200, 200]
    assert image.objects.crowd.tolist() == [False] * 6


def test_sizes_that_are_not_listed_come_from_the_files(read):
    (image,) = read(_document({}, images=[{"id": 1, "file_name": "a.png"}])).images
    assert (image.height, image.width) == (30, 40)


def test_images_without_objects_are_kept(read):
    images = [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate("abc")]
    assert [len(image.objects) for image in read(_document({}, images=images)).images] == [0, 1, 0]


def test_an_image_may_lie_in_a_folder_below(read, folder):
    (folder / "sub").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / "sub" / "f.png")
    (image,) = read(_document({}, images=[{"id": 1, "file_name": "sub/../sub/f.png"}])).images
    assert image.path.samefile(folder / "sub" / "f.png")


def test_annotation_id_nought_is_an_id(read):
    assert read(_document({"id": 0})).images[0].objects.ids == (0,)


def test_category_id_nought_is_a_class(read):
    found = read(_document({"category_id": 0}, categories=[{"id": 0, "name": "cat"}]))
    assert found.classes == ClassTable(("cat",), (0,))
    assert found.images[0].objects.labels.tolist() == [0]


def test_sparse_category_ids_become_labels_in_the_order_of_ids(read):
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 2**63, "name": "huge"}]
    found = read(_document(*({"category_id": i} for i in (90, 2**63, 3)), categories=categories))
    assert found.classes == ClassTable(("car", "toothbrush", "huge"), (3, 90, 2**63))
    assert found.images[0].objects.labels.tolist() == [1, 2, 0]


def test_a_bom_is_no_matter(read):
    assert len(read("\ufeff" + json.dumps(_document({}))).images) == 1


# classes of a trained model


def test_categories_are_matched_by_name_with_the_classes_that_are_given(read):
    classes = ClassTable(("dog", "cat"), (1, 2))
    found = read(_document({"category_id": 7}, {"category_id": 3}, categories=[
        {"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]), classes)  # fmt: skip
    assert found.classes is classes
    assert found.images[0].objects.labels.tolist() == [1, 0]


def test_a_category_that_nothing_has_need_not_be_known(read):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "unicorn"}]
    found = read(_document({}, categories=categories), ClassTable(("cat",), (1,)))
    assert len(found.images[0].objects) == 1


def test_a_category_that_is_not_among_the_classes_suggests_the_nearest(read):
    problem = _refusal(read, _document({}, categories=[{"id": 1, "name": "cats"}]), ClassTable(("cat",), (1,)))
    assert problem.what == "category 'cats' is not among the classes trained on"
    assert problem.hint == "did you mean cat?"


def test_a_category_near_to_no_class_lists_the_classes(read):
    problem = _refusal(read, _document({}, categories=[{"id": 1, "name": "xyz"}]), ClassTable(("cat", "dog"), (1, 2)))
    assert problem.hint == "the classes are cat, dog"


def test_a_strange_category_id_is_refused_with_given_classes_too(read):
    problem = _refusal(read, _document({"category_id": [1]}), ClassTable(("cat",), (1,)))
    assert "category_id [1] is not in categories" in problem.what


# what is mended


@pytest.mark.parametrize(
    ("box", "check"),
    [
        ([5, 5, 0, 10], "box-without-area"),
        ([5, 5, 10, 0], "box-without-area"),
        ([40, 5, 10, 10], "box-outside"),
        ([5, 30, 10, 10], "box-outside"),
        ([-20, 5, 20, 10], "box-outside"),
        ([5, -20, 10, 5], "box-outside"),
    ],
)
def test_a_box_without_a_place_is_dropped_and_shown(read, box, check):
    found = read(_document({}, {"bbox": box, "id": 77}))
    assert _checks(found) == {check: 1}
    assert len(found.images[0].objects) == 1
    assert "annotations[1] (id 77).bbox" in str(next(iter(found.findings)))
    assert "is dropped" in str(next(iter(found.findings)))


@pytest.mark.parametrize("box", [[-5, 5, 20, 10], [5, -5, 10, 20], [30, 5, 20, 10], [5, 20, 10, 20]])
def test_a_box_that_sticks_out_is_clipped_and_shown(read, box):
    found = read(_document({"bbox": box}))
    assert _checks(found) == {"box-clipped": 1}
    assert "sticks out of its 40x30 image and is clipped" in str(next(iter(found.findings)))
    (image,) = found.images
    clipped = image.objects.clipped(image.height, image.width)
    assert (clipped >= 0).all()
    assert (clipped <= [40, 30, 40, 30]).all()
    assert image.objects.boxes.tolist() == [[box[0], box[1], box[0] + box[2], box[1] + box[3]]]


@pytest.mark.parametrize("box", [[-0.5, 5, 20, 10], [30, 5, 10.9, 10], [5, 20, 10, 10.5]])
def test_a_rounding_error_of_a_tool_is_no_fault(read, box):
    assert _checks(read(_document({"bbox": box}))) == {}


@pytest.mark.parametrize("key", [None, "7", 1.5, True])
def test_an_annotation_without_a_whole_number_as_id_is_kept(read, key):
    found = read(_document({"id": key}))
    assert _checks(found) == {"annotation-id": 1}
    assert len(found.images[0].objects) == 1


def test_a_few_annotations_of_images_that_are_not_listed_are_dropped(read):
    found = read(_document(*({"image_id": 1 if i else 99} for i in range(120))))
    assert _checks(found) == {"annotation-without-image": 1}
    assert "is of the image 99, which is not listed" in str(next(iter(found.findings)))


# what is refused


def test_all_kinds_of_faults_are_reported_at_once(read):
    categories = [{"id": "1", "name": "cat"}, {"id": 2, "name": ""}, {"id": 3, "name": "a"}, {"id": 3, "name": "b"}]
    images = [{"id": "1", "file_name": "a.png"}, {"id": 2}, {"id": 3, "file_name": "b.png", "height": 0, "width": 4}]
    whats = [problem.what for problem in _problems(read, _document(images=images, categories=categories))]
    assert whats == [
        "categories[0].id is '1', not a whole number",
        "categories[1].name is '', not a name",
        "categories[3].id 3 is used twice",
        "images[0].id is '1', not a whole number",
        "images[1].file_name is None, not a name",
        "images[2] has height 0 and width 4",
    ]


def test_faults_of_one_kind_are_counted(read):
    problem = _refusal(read, _document({"bbox": [1, 2]}, {"bbox": None}, {"bbox": 7}))
    assert problem.what == "annotations[0] (id 1).bbox is [1, 2], not four numbers and 2 more"


@pytest.mark.parametrize(
    ("box", "what"),
    [
        ([1, 2, 3], "not four numbers"),
        (["1", "2", "3", "4"], "not four numbers"),
        ([True, 2, 3, 4], "not four numbers"),
        (None, "not four numbers"),
        ({}, "not four numbers"),
        ([1, 2, float("inf"), 4], "NaN or infinity"),
        ([1, 2, 10**400, 4], "NaN or infinity"),
        ([10, 2, -5, 4], "its width or height is negative"),
        ([10, 2, 5, -4], "its width or height is negative"),
    ],
)
def test_a_box_that_is_none_is_refused(read, box, what):
    assert what in _refusal(read, _document({"bbox": box})).what


def test_a_negative_width_points_to_the_other_format(read):
    problem = _refusal(read, _document({"bbox": [10, 2, -5, 4]}))
    assert problem.hint == "COCO boxes are x, y, width, height; was this exported as x1, y1, x2, y2?"


def test_an_endless_area_follows_from_the_box(read):
    assert read(_document({"area": 10**400})).images[0].objects.areas.tolist() == [200]


def test_corners_where_sizes_should_be_are_noticed(read):
    problem = _refusal(read, _document({"bbox": [20, 10, 38, 28]}, {}))
    assert problem.what == ("1 of 2 boxes leave their image as x, y, width, height, and fit as x1, y1, x2, y2")
    assert problem.hint == "COCO boxes are x, y, width, height: convert them"


def test_many_annotations_of_images_that_are_not_listed_are_refused(read):
    problem = _refusal(read, _document({}, {"image_id": 99}, {"image_id": "1"}))
    assert problem.what == "2 of 3 annotations are of images that are not listed"
    assert problem.hint == "the lists images and annotations belong to different exports"


@pytest.mark.parametrize("value", ["1", 1.0, None, [1], 2])
def test_a_category_id_that_is_not_listed_is_refused(read, value):
    problem = _refusal(read, _document({"category_id": value}))
    assert problem.what == f"annotations[0] (id 1).category_id {value!r} is not in categories"
    assert problem.hint == "the ids are 1"


def test_an_annotation_that_is_no_object_is_refused(read):
    document = _document()
    document["annotations"] = [[1, 2]]
    assert _refusal(read, document).what == "annotations[0] is a list, not an object"


@pytest.mark.parametrize("entry", [7, [], "a.png"])
def test_an_entry_that_is_no_object_is_refused(read, entry):
    kind = type(entry).__name__
    assert _refusal(read, _document(images=[entry])).what == f"images[0].id is in a {kind}, not a whole number"
    problems = _problems(read, _document(categories=[entry]))
    assert problems[0].what == f"categories[0].id is in a {kind}, not a whole number"


def test_a_name_of_two_categories_is_refused(read):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
    assert _refusal(read, _document(categories=categories)).what == "the category name 'cat' stands for several ids"


def test_a_file_without_categories_is_refused(read):
    problem = _refusal(read, _document(categories=[]))
    assert (problem.what, problem.hint) == ("the list of categories is empty", "name at least one class")


def test_a_file_without_images_is_refused(read):
    assert _refusal(read, _document(images=[])).what == "the list of images is empty"


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "sub/../../a.png", "..\\a.png", "a/b/../../../a.png", "..", "\\a.png"]
)
def test_a_file_name_stays_inside_the_folder(read, name):
    problem = _refusal(read, _document(images=[{"id": 1, "file_name": name}]))
    assert problem.what == f"images[0].file_name {name!r} leads out of the image folder"
    assert problem.hint == "file names are relative to the image folder and stay inside it"


@pytest.mark.parametrize("name", ["a\x00.png", "x" * 5000, ".", "sub", "\ud800.png"])
def test_a_name_that_is_no_file_is_refused(read, folder, name):
    (folder / "sub").mkdir(exist_ok=True)
    assert "images[0]" in _refusal(read, _document(images=[{"id": 1, "file_name": name}])).what


def test_a_damaged_picture_is_named_with_its_entry(read, folder):
    (folder / "broken.png").write_bytes(b"<html>")
    problem = _refusal(read, _document(images=[{"id": 1, "file_name": "broken.png"}]))
    assert problem.what == f"file is not an image of a known kind: {folder / 'broken.png'} (images[0])"


@pytest.mark.parametrize(
    ("height", "width", "hint"),
    [
        (40, 30, "the file's EXIF orientation turns the picture, and boxes must be those of the upright one"),
        (60, 80, "boxes would lie elsewhere: export the annotations for these files"),
    ],
)
def test_a_size_that_is_not_the_pictures_is_refused(read, height, width, hint):
    problem = _refusal(read, _document(images=[{"id": 1, "file_name": "a.png", "height": height, "width": width}]))
    assert problem.what == f"images[0] says {width}x{height} (width x height), the picture a.png is 40x30"
    assert problem.hint == hint


@pytest.mark.parametrize("side", ["30", 0, -1, 30.0, True])
def test_a_side_that_is_no_length_is_refused(read, side):
    problem = _refusal(read, _document(images=[{"id": 1, "file_name": "a.png", "height": side, "width": 40}]))
    assert problem.what == f"images[0] has height {side!r} and width 40"


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("  \n", "annotation file is empty", "export the dataset again"),
        ('{"images": [', "not valid JSON", "the file is cut off or was edited by hand; export it again"),
        ("[]", "annotation file holds a list, not a COCO object", "a list of results is no dataset"),
        ("[" * 100_000, "annotation file is no sane JSON", None),
        ('{"images": [' + "9" * 5000 + "]}", "annotation file is no sane JSON", None),
        ('{"images": []}', "annotation file lacks the lists annotations, categories", "this is not COCO format"),
        ('{"images": {}, "annotations": [], "categories": []}', "lacks the lists images", "this is not COCO format"),
    ],
)
def test_a_file_that_is_no_coco_file_is_refused(read, text, what, hint):
    problem = _refusal(read, text)
    assert what in problem.what
    assert problem.hint is None if hint is None else hint in problem.hint


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="annotation file does not exist") as caught:
        read_coco("train", tmp_path / "a.json", tmp_path)
    assert caught.value.problems[0].where == str(tmp_path / "a.json")


def test_a_folder_is_no_annotation_file(tmp_path):
    with pytest.raises(DataError, match=r"annotation file cannot be read: .*Is a directory"):
        read_coco("train", tmp_path, tmp_path)


def test_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(json.dumps(_document()).encode("utf-16"))
    with pytest.raises(DataError, match=r"annotation file cannot be read: .*utf-8"):
        read_coco("train", tmp_path / "a.json", tmp_path)


# properties


@st.composite
def _documents(draw):
    """Draw valid documents on pictures of 40 x 30, whose boxes may stick out."""
    ids = st.one_of(st.integers(0, 100), st.integers(2**63, 2**70))
    names = "abcde"[: draw(st.integers(1, 5))]
    keys = draw(st.lists(ids, min_size=len(names), max_size=len(names), unique=True))
    classes = draw(st.lists(ids, min_size=1, max_size=6, unique=True))
    number = st.floats(0.25, 30, width=32)
    boxes = draw(st.lists(st.tuples(st.floats(-0.125, 39, width=32), st.floats(-0.125, 29, width=32), number, number)))
    return {
        "images": [{"id": key, "file_name": f"{name}.png"} for key, name in zip(keys, names, strict=True)],
        "categories": [{"id": key, "name": f"class {i}"} for i, key in enumerate(classes)],
        "annotations": [
            {
                "id": i,
                "image_id": draw(st.sampled_from(keys)),
                "category_id": draw(st.sampled_from(classes)),
                "bbox": list(box),
                "iscrowd": draw(st.integers(0, 1)),
            }
            for i, box in enumerate(boxes)
        ],
    }


@settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=_documents())
def test_a_valid_document_keeps_every_object_inside_its_picture(read, document):
    fit_as_corners = [
        box
        for box in (annotation["bbox"] for annotation in document["annotations"])
        if (box[0] + box[2] > 41 or box[1] + box[3] > 31) and box[0] < box[2] <= 41 and box[1] < box[3] <= 31
    ]
    if len(fit_as_corners) > 0.05 * len(document["annotations"]):
        return  # rightly taken for corners
    found = read(document)
    assert [image.id for image in found.images] == [entry["id"] for entry in document["images"]]
    kept = {key: image.id for image in found.images for key in image.objects.ids}
    assert kept == {annotation["id"]: annotation["image_id"] for annotation in document["annotations"]}
    named = {entry["id"]: entry["name"] for entry in document["categories"]}
    for image in found.images:
        boxes = image.objects.clipped(image.height, image.width)
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= [40, 30, 40, 30]).all()
        for label, key in zip(image.objects.labels, image.objects.ids, strict=True):
            assert found.classes.names[label] == named[document["annotations"][key]["category_id"]]
