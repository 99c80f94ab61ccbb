"""Where splits are found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from densenet_suite.archives.writing import ArchiveWriter
from densenet_suite.detection.layout import CocoFile, CsvFile, VocFolder, YoloFile, find_images, find_split, name_split
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
    assert find_split(tmp_path, "train") == CocoFile(tmp_path / annotations, tmp_path / folder)
    assert find_split(tmp_path, "val") is None
    assert find_split(tmp_path, "test") is None


@pytest.mark.parametrize("alias", ["val", "valid", "validation"])
@pytest.mark.parametrize(
    "pattern", ["annotations/instances_{}.json", "{}/_annotations.coco.json", "annotations/{}.json"]
)
def test_the_validation_split_has_several_names(make, tmp_path, alias, pattern):
    path = make(pattern.format(alias), f"{alias}/a.jpg")
    assert find_split(tmp_path, "val") == CocoFile(path, tmp_path / alias)


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


def test_the_paths_of_a_named_split_are_relative_to_the_root(synthetic):
    annotations, images = synthetic / "annotations" / "instances_val.json", synthetic / "images" / "val"
    expected = CocoFile(annotations, images)
    assert name_split(synthetic, "val", "annotations/instances_val.json", "images/val") == expected
    assert name_split(synthetic, "val", "annotations/instances_val.json", None) == expected


# other formats


@pytest.fixture
def files(tmp_path):
    """Write files, empty or with the text behind "=", and return their folder."""

    def files(*names):
        for name in names:
            path, _, text = name.partition("=")
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return files


TABLE = "filename,xmin,ymin,xmax,ymax,class\na.jpg,1,2,3,4,cat\n"


@pytest.mark.parametrize(
    ("names", "annotations", "images", "listed"),
    [
        (
            ["Annotations/a.xml", "JPEGImages/a.jpg", "ImageSets/Main/train.txt=a"],
            "Annotations",
            "JPEGImages",
            "ImageSets/Main/train.txt",
        ),
        (["Annotations/a.xml", "JPEGImages/a.jpg"], "Annotations", "JPEGImages", None),
        (["annotations/a.xml", "images/a.jpg"], "annotations", "images", None),
        (["Annotations/a.xml", "Annotations/a.jpg"], "Annotations", "Annotations", None),
        (["a.xml", "a.jpg"], ".", ".", None),
        (["train/a.xml", "train/a.jpg"], "train", "train", None),
        (["train/Annotations/a.xml", "train/JPEGImages/a.jpg"], "train/Annotations", "train/JPEGImages", None),
        (["train/annotations/a.xml", "train/images/a.jpg"], "train/annotations", "train/images", None),
        (["annotations/train/a.xml", "images/train/a.jpg"], "annotations/train", "images/train", None),
    ],
)
def test_the_layouts_of_pascal_voc_are_found(files, names, annotations, images, listed):
    root = files(*names)
    expected = VocFolder(root / annotations, root / images, root / listed if listed else None)
    assert find_split(root, "train") == expected
    assert find_split(root, "val") is None
    assert find_split(root, "train", "coco") is None


@pytest.mark.parametrize("name", ["data.yaml", "data.yml", "dataset.yaml", "mine.yaml"])
def test_the_yaml_of_a_yolo_dataset_is_found(files, name):
    root = files(f"{name}=names: [cat]\ntrain: images\nvalid: images\ntest:\n", "other.yaml=a: 1", "wrong.yml=[")
    assert find_split(root, "train") == YoloFile(root / name, "train")
    assert find_split(root, "val") == YoloFile(root / name, "valid")
    assert find_split(root, "test") is None


def test_a_usual_yaml_that_is_wrong_is_not_passed_over(files):
    with pytest.raises(DataError, match="yaml is not valid"):
        find_split(files("data.yaml=["), "train")


def test_two_yamls_are_ambiguous(files):
    root = files("a.yaml=names: [cat]\ntrain: x", "b.yml=names: [cat]\ntrain: x")
    with pytest.raises(DataError, match=r"several files could be the train split: a\.yaml, b\.yml"):
        find_split(root, "train")


@pytest.mark.parametrize(
    ("table", "image", "folder"),
    [
        ("train.csv", "images/train/a.jpg", "images/train"),
        ("train.csv", "train/a.jpg", "train"),
        ("train.csv", "images/a.jpg", "images"),
        ("train.csv", "a.jpg", "."),
        ("train_labels.csv", "images/train/a.jpg", "images/train"),
        ("annotations/train.csv", "images/train/a.jpg", "images/train"),
        ("train/_annotations.csv", "train/a.jpg", "train"),
    ],
)
def test_the_layouts_of_tables_are_found(files, table, image, folder):
    root = files(f"{table}={TABLE}", image, "other.csv=a,b")
    assert find_split(root, "train") == CsvFile(root / table, root / folder)
    assert find_split(root, "val") is None


def test_a_table_may_have_a_column_split(files):
    root = files("boxes.csv=split,image,xmin,ymin,xmax,ymax,class\ntrain,a.jpg,1,2,3,4,cat\nvalid,a.jpg,,,,,", "a.jpg")
    assert find_split(root, "train") == find_split(root, "val") == CsvFile(root / "boxes.csv", root)
    assert find_split(root, "test") is None


def test_two_tables_with_a_column_split_are_ambiguous(files):
    text = "split,image,xmin,ymin,xmax,ymax,class\ntrain,a.jpg,1,2,3,4,cat"
    with pytest.raises(DataError, match=r"several files could be the train split: a\.csv, b\.csv"):
        find_split(files(f"a.csv={text}", f"b.csv={text}"), "train")


@pytest.mark.parametrize(("text", "found"), [("image,mask\na.jpg,a.png", False), ("", False), (TABLE, True)])
def test_a_table_without_columns_of_boxes_is_none(files, text, found):
    assert (find_split(files(f"train.csv={text}", "a.jpg"), "train") is not None) == found


def test_the_images_of_a_table_must_be_somewhere(files):
    root = files(f"train.csv={TABLE}")
    with pytest.raises(DataError, match=r"the first image, a\.jpg, is in none of ") as caught:
        find_split(root, "train")
    assert caught.value.problems[0].hint == "say where the images are: data.train.images=... (or val, test)"


def test_coco_goes_before_yolo_before_voc_before_csv(files, make):
    root = files("Annotations/a.xml", "a.jpg", f"train.csv={TABLE}")
    assert isinstance(find_split(root, "train"), VocFolder)
    assert isinstance(find_split(root, "train", "csv"), CsvFile)
    files("data.yaml=names: [cat]\ntrain: images\n")
    assert isinstance(find_split(root, "train"), YoloFile)
    make("annotations/instances_train.json")
    assert isinstance(find_split(root, "train"), CocoFile)
    assert isinstance(find_split(root, "train", "voc"), VocFolder)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ("sub/Annotations", VocFolder(Path("sub/Annotations"), Path("sub/JPEGImages"))),
        ("names.txt", VocFolder(Path("Annotations"), Path("JPEGImages"), Path("names.txt"))),
        ("mine.yaml", YoloFile(Path("mine.yaml"), "valid")),
        ("t.csv", CsvFile(Path("t.csv"), Path())),
        ("t.json", CocoFile(Path("t.json"), Path("images"))),
    ],
)
def test_the_ending_of_a_named_split_says_its_format(files, annotations, expected):
    root = files(
        "sub/Annotations/a.xml", "sub/JPEGImages/a.jpg", "Annotations/a.xml", "JPEGImages/a.jpg", "names.txt=a",
        "mine.yaml=names: [cat]\nvalid: images", f"t.csv={TABLE}", "a.jpg", "t.json",
    )  # fmt: skip
    places = {key: value and root / value for key, value in vars(expected).items() if key != "key"}
    assert name_split(root, "val", annotations, None) == replace(expected, **places)


def test_a_yaml_without_the_split_is_refused(files):
    root = files("mine.yaml=names: [cat]\ntrain: images")
    with pytest.raises(DataError, match="the yaml names no val split") as caught:
        name_split(root, "val", "mine.yaml", None)
    assert caught.value.problems[0].hint == "val: images/val"


def test_a_file_name_is_found_without_parsing_the_file(tmp_path, monkeypatch):
    """COCO files are of up to half a gigabyte, and are parsed once, by their reader."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / 'a "b"\u00fc.png').write_bytes(b"")
    text = json.dumps({"annotations": [], "images": [{"id": 1, "file_name": 'a "b"\u00fc.png'}]})
    (tmp_path / "annotations.json").write_text(text)
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: loads(text) if len(text) < 40 else pytest.fail("parsed"))
    assert find_images(tmp_path, tmp_path / "annotations.json") == tmp_path / "images"


def test_voc_files_may_lie_in_folders_where_there_are_lists(files):
    root = files("Annotations/train/a.xml", "JPEGImages/train/a.jpg", "ImageSets/Main/train.txt=train/a")
    names = root / "ImageSets" / "Main" / "train.txt"
    assert find_split(root, "train") == VocFolder(root / "Annotations", root / "JPEGImages", names)


def test_a_pattern_names_shards(synthetic_shards):
    found = name_split(synthetic_shards, "train", "shards/train-*.tar", None)
    assert str(found) == f"sharded tars, as there is {synthetic_shards / 'shards' / 'train-000000.tar'}"
    with pytest.raises(DataError, match="there are no tars of this name"):
        name_split(synthetic_shards, "train", "shards/other-*.tar", None)


@pytest.fixture
def synthetic_shards(tmp_path):
    """One shard of one sample with boxes."""
    (tmp_path / "shards").mkdir()
    with ArchiveWriter(tmp_path / "shards", "train", 10**6) as writer:
        writer.add({"a.png": b"", "a.json": b"{}"})
    return tmp_path


def test_shards_are_found_and_said(synthetic_shards):
    found = find_split(synthetic_shards, "train")
    assert str(found) == f"sharded tars, as there is {synthetic_shards / 'shards' / 'train-000000.tar'}"
    assert find_split(synthetic_shards, "val") is None
