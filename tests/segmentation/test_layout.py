"""Where splits are found."""

import json

import pytest
from PIL import Image

from densenet_suite.errors import DataError
from densenet_suite.labelled_data import SPLITS
from densenet_suite.segmentation.layout import CocoFile, find_split, name_split


def find_splits(root):
    return {split: files for split in SPLITS if (files := find_split(root, split)) is not None}


@pytest.fixture
def touch(tmp_path):
    """Write small pictures, and texts under other names."""

    def touch(*names, **texts):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
            else:
                Image.new("L", (4, 3)).save(path)
        for name, text in texts.items():
            (tmp_path / f"{name}.txt").write_text(text)
        return tmp_path

    return touch


def _names(files):
    return [(pair.image.name, *(mask.name for mask in pair.masks)) for pair in files.pairs]


@pytest.mark.parametrize("masks", ["masks", "annotations", "labels"])
@pytest.mark.parametrize(
    ("split", "alias"), [("train", "train"), ("val", "val"), ("val", "valid"), ("val", "validation"), ("test", "test")]
)
@pytest.mark.parametrize("pattern", ["{kind}/{split}/a.png", "{split}/{kind}/a.png"])
def test_the_usual_folders_are_found(touch, masks, split, alias, pattern):
    root = touch(pattern.format(kind="images", split=alias), pattern.format(kind=masks, split=alias))
    found = find_splits(root)
    assert list(found) == [split]
    assert _names(found[split]) == [("a.png", "a.png")]


def test_masks_may_have_names_of_their_own(touch):
    root = touch("images/train/a.jpg", "masks/train/a_mask.png")
    assert _names(find_split(root, "train", mask_name="{stem}_mask")) == [("a.jpg", "a_mask.png")]


def test_folders_of_classes_are_found_where_classes_may_overlap(touch):
    root = touch("images/train/a.jpg", "masks/train/x/a.png", "masks/train/y/a.png")
    assert find_split(root, "train", multilabel=True).layers == ("x", "y")


def test_lists_divide_what_lies_in_one_folder(touch):
    root = touch("images/a.jpg", "images/b.jpg", "images/c.x.jpg", "masks/a.png", "masks/b.png", "masks/c.x.png")
    touch(train="b\n\nc.x.jpg\n", valid="a\n")
    found = find_splits(root)
    assert {split: _names(files) for split, files in found.items()} == {
        "train": [("b.jpg", "b.png"), ("c.x.jpg", "c.x.png")],
        "val": [("a.jpg", "a.png")],
    }
    assert found["train"].where == root / "train.txt"


def test_without_lists_all_are_the_training_split(touch):
    found = find_splits(touch("images/a.jpg", "masks/a.png"))
    assert {split: _names(files) for split, files in found.items()} == {"train": [("a.jpg", "a.png")]}


def test_a_list_names_what_there_is(touch):
    root = touch("images/a.jpg", "masks/a.png")
    touch(train="a\nb\nc.jpg\n")
    with pytest.raises(DataError, match=r"2 of the 3 names are of no image below .*: b, c\.jpg") as caught:
        find_split(root, "train")
    (problem,) = caught.value.problems
    assert problem.where == str(root / "train.txt")
    assert problem.hint == "one name to a line, relative to the folder of images, with or without its ending"


def test_a_listed_image_without_mask_is_noted(touch):
    root = touch("images/a.jpg", "images/b.jpg", "images/c.jpg", "masks/a.png")
    touch(train="a\nb\n")
    assert find_split(root, "train").missing() == "1 image has no mask: b.jpg"


@pytest.mark.parametrize(
    ("file", "image", "folder"),
    [
        ("annotations/instances_train.json", "images/train/a.png", "images/train"),
        ("annotations/instances_train.json", "train/a.png", "train"),
        ("annotations/instances_train.json", "images/a.png", "images"),
        ("annotations/instances_train.json", "a.png", "."),
        ("annotations/instances_train2017.json", "images/train2017/a.png", "images/train2017"),
        ("annotations/instances_train2017.json", "train2017/a.png", "train2017"),
    ],
)
def test_coco_files_are_found(touch, file, image, folder):
    root = touch(file, image)
    assert find_split(root, "train") == CocoFile(root / file, root / folder)


def test_masks_go_before_polygons(touch):
    root = touch("images/train/a.png", "masks/train/a.png", "annotations/instances_train.json")
    assert _names(find_split(root, "train")) == [("a.png", "a.png")]


def test_several_years_are_ambiguous(touch):
    root = touch("annotations/instances_val2014.json", "annotations/instances_val2017.json")
    with pytest.raises(DataError, match=r"several files could be the val split: .*2014\.json, .*2017\.json") as caught:
        find_split(root, "val")
    hint = "name one: data.val.images=... data.val.masks=annotations/instances_val2014.json"
    assert caught.value.problems[0].hint == hint


def test_a_table_goes_before_folders(touch):
    root = touch("images/train/a.png", "masks/train/a.png")
    (root / "train.csv").write_text("image,mask\nimages/train/a.png,other/a.tif\n")
    assert _names(find_split(root, "train")) == [("a.png", "a.tif")]


@pytest.mark.parametrize("images", ["images/train", "images"])
def test_images_without_any_masks_are_named(touch, images):
    root = touch(f"{images}/a.jpg", f"{images}/b.jpg")
    assert find_split(root, "train").missing() == "2 images have no mask: a.jpg, b.jpg"


def test_images_to_test_on_need_no_masks(touch):
    root = touch("images/train/a.png", "masks/train/a.png", "images/test/b.png")
    assert list(find_splits(root)) == ["train"]


def test_an_empty_folder_has_no_split(tmp_path):
    assert [find_split(tmp_path, split) for split in SPLITS] == [None] * 3


def test_places_can_be_named(touch):
    root = touch("pictures/a.jpg", "truth/a_gt.png", "truth/all.json")
    named = name_split(root, "train", "pictures", "truth", mask_name="{stem}_gt")
    assert _names(named) == [("a.jpg", "a_gt.png")]
    coco = name_split(root, "train", "pictures", "truth/all.json")
    assert coco == CocoFile(root / "truth/all.json", root / "pictures")
    (root / "truth" / "rows.csv").write_text("image,mask\na.jpg,a_gt.png\n")
    (pair,) = name_split(root, "train", "pictures", "truth/rows.csv").pairs
    assert (pair.image, pair.masks) == (root / "pictures/a.jpg", (root / "truth/a_gt.png",))


@pytest.mark.parametrize(
    ("name", "counts"),
    [("isbi-em", (20, 4)), ("dsb2018-nuclei", (27, 10)), ("camvid", (367, 101)), ("dubai-aerial", (37, 9))],
)
def test_real_datasets_are_found(data_folder, name, counts):
    found = find_splits(data_folder(name))
    assert tuple(len(files.pairs) for files in found.values()) == counts
    assert not any(files.unlabelled or files.unused for files in found.values())
