"""Where splits are found."""

import json

import pytest
from PIL import Image

from densenet_suite.detection.layout import SplitPaths, find_images, find_split
from densenet_suite.errors import DataError
from densenet_suite.labelled_data import SPLITS


@pytest.fixture
def make(tmp_path):
    """Write an annotation file of one image, and the image."""

    def make(annotations, image=None, name="a.jpg"):
        path = tmp_path / annotations
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": [{"id": 1, "file_name": name}], "annotations": [], "categories": []}))
        if image is not None:
            (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 3)).save(tmp_path / image)
        return path

    return make


@pytest.mark.parametrize(
    ("annotations", "image", "folder"),
    [
        ("annotations/instances_train2017.json", "train2017/a.jpg", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017/a.jpg", "images/train2017"),
        ("annotations/instances_train2014.json", "train2014/a.jpg", "train2014"),
        ("annotations/instances_train.json", "images/train/a.jpg", "images/train"),
        ("annotations/instances_train.json", "train/a.jpg", "train"),
        ("annotations/instances_train.json", "images/a.jpg", "images"),
        ("annotations/instances_train.json", "annotations/a.jpg", "annotations"),
        ("annotations/instances_train.json", "a.jpg", "."),
        ("annotations/train.json", "images/train/a.jpg", "images/train"),
        ("annotations/train.json", "images/a.jpg", "images"),
        ("train/_annotations.coco.json", "train/a.jpg", "train"),
        ("train.json", "images/a.jpg", "images"),
        ("train.json", "train/a.jpg", "train"),
    ],
)
def test_the_usual_layouts_are_found(make, tmp_path, annotations, image, folder):
    make(annotations, image)
    assert find_split(tmp_path, "train") == SplitPaths(tmp_path / annotations, tmp_path / folder)
    assert find_split(tmp_path, "val") is None
    assert find_split(tmp_path, "test") is None


@pytest.mark.parametrize("alias", ["val", "valid", "validation"])
@pytest.mark.parametrize(
    "pattern", ["annotations/instances_{}.json", "{}/_annotations.coco.json", "annotations/{}.json"]
)
def test_the_validation_split_has_several_names(make, tmp_path, alias, pattern):
    path = make(pattern.format(alias), f"{alias}/a.jpg")
    assert find_split(tmp_path, "val") == SplitPaths(path, tmp_path / alias)


def test_file_names_may_lead_into_folders_below(make, tmp_path):
    make("annotations/instances_train.json", "images/cats/a.jpg", name="cats/a.jpg")
    assert find_split(tmp_path, "train").images == tmp_path / "images"


@pytest.mark.parametrize(
    ("name", "splits"),
    [("coco-official", ("train",)), ("coco-mini", ("train", "val")), ("bccd", ("train", "val"))],
)
def test_real_datasets_are_found(data_folder, name, splits):
    root = data_folder(name)
    found = {split: find_split(root, split) for split in SPLITS}
    assert tuple(split for split in SPLITS if found[split]) == splits
    for split in splits:
        first = json.loads(found[split].annotations.read_text())["images"][0]["file_name"]
        assert (found[split].images / first).is_file()


def test_several_years_are_ambiguous(make, tmp_path):
    make("annotations/instances_train2014.json", "a.jpg")
    make("annotations/instances_train2017.json")
    with pytest.raises(DataError, match="several files could be the train split: ") as caught:
        find_split(tmp_path, "train")
    (problem,) = caught.value.problems
    assert problem.what.endswith("instances_train2014.json, instances_train2017.json")
    assert (problem.where, problem.hint) == (str(tmp_path), "name one: data.train.annotations=...")


def test_a_name_without_a_year_goes_first(make, tmp_path):
    path = make("annotations/instances_train.json", "a.jpg")
    make("annotations/instances_train2017.json")
    assert find_split(tmp_path, "train").annotations == path


def test_a_folder_without_annotations_has_no_split(tmp_path):
    assert [find_split(tmp_path, split) for split in SPLITS] == [None] * 3


@pytest.mark.parametrize("name", ["gone.jpg", "x" * 5000])
def test_images_that_are_not_where_they_usually_are_must_be_named(make, tmp_path, name):
    path = make("annotations/instances_train.json", name=name)
    with pytest.raises(DataError, match=f"the first image, {name}, is in none of ") as caught:
        find_split(tmp_path, "train")
    (problem,) = caught.value.problems
    for folder in ("images/train", "train", "images", "annotations"):
        assert str(tmp_path / folder) in problem.what
    assert problem.where == str(path)
    assert problem.hint == "say where the images are: data.train.images=... (or val, test)"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": []}', '{"images": [7]}', '{"images": [{}]}', "[" * 100_000]
)
def test_a_file_that_cannot_be_read_is_left_to_the_reader(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert find_images(tmp_path, tmp_path / "a.json") == tmp_path / "images"
