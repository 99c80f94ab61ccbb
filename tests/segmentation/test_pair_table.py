"""CSV files that say which mask belongs to which image."""

import pytest

from densenet_suite.errors import DataError
from densenet_suite.segmentation.pair_table import find_table, read_table
from densenet_suite.segmentation.pairing import Pair


@pytest.fixture
def table(tmp_path):
    def table(text, name="pairs.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8-sig")
        return path

    return table


def test_rows_are_pairs(table, tmp_path):
    path = table("image,mask\na.jpg,m/a.png\n b.jpg , m/b.png\n")
    found = read_table(path, tmp_path / "pictures", "train")
    assert found.pairs == (
        Pair(tmp_path / "pictures/a.jpg", (tmp_path / "m/a.png",)),
        Pair(tmp_path / "pictures/b.jpg", (tmp_path / "m/b.png",)),
    )
    assert found.where == path


def test_a_column_says_the_split(table, tmp_path):
    path = table("split,mask,image\ntrain,m/a.png,a.jpg\nvalid,m/b.png,b.jpg\nval,m/c.png,c.jpg\n")
    names = {split: [pair.image.name for pair in read_table(path, tmp_path, split).pairs] for split in ("train", "val")}
    assert names == {"train": ["a.jpg"], "val": ["b.jpg", "c.jpg"]}


def test_a_row_without_mask_is_an_image_without_mask(table, tmp_path):
    found = read_table(table("image,mask\na.jpg,\nb.jpg,b.png\n"), tmp_path, "train")
    assert found.missing() == "1 image has no mask: a.jpg"
    assert found.hint == "every row needs a mask"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (",b.png,train", "the row names no image"),
        ("../a.jpg,b.png,train", "'../a.jpg' leads out of the dataset's folder"),
        ("a.jpg,/b.png,train", "'/b.png' leads out of the dataset's folder"),
        ("a.jpg,b.png,dev", "split 'dev' is none of train, val, valid, validation, test"),
        ("ok.jpg,b.png,train", "image ok.jpg is named twice"),
    ],
)
def test_faulty_rows_are_named_with_their_line(table, tmp_path, row, what):
    path = table(f"image,mask,split\nok.jpg,ok.png,train\n{row}\n")
    with pytest.raises(DataError) as caught:
        read_table(path, tmp_path, "train")
    (problem,) = caught.value.problems
    assert (problem.what, problem.where) == (what, f"{path}:3")


def test_columns_must_be_named(table, tmp_path):
    with pytest.raises(DataError, match="table has no column image and no column mask") as caught:
        read_table(table("a.jpg,a.png\n"), tmp_path, "train")
    assert caught.value.problems[0].hint == "the first line names the columns: image,mask or image,mask,split"


def test_a_table_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"image,mask\n\xff\xfe,b\n")
    with pytest.raises(DataError, match="table cannot be read: ") as caught:
        read_table(path, tmp_path, "train")
    assert caught.value.problems[0].where == str(path)


def test_the_table_of_a_split_is_found(table, tmp_path):
    assert find_table(tmp_path, "train", "train") is None
    other = table("name,size\n", "about.csv")
    assert find_table(tmp_path, "train", "train") is None
    whole = table("image,mask,split\na.jpg,a.png,train\n", "dataset.csv")
    assert find_table(tmp_path, "train", "train") == whole
    assert find_table(tmp_path, "val", "val") is None
    own = table("image,mask\na.jpg,a.png\n", "train.csv")
    assert find_table(tmp_path, "train", "train") == own
    assert other.is_file()


def test_several_tables_are_ambiguous(table, tmp_path):
    table("image,mask,split\n", "a.csv")
    table("image,mask,split\n", "b.csv")
    with pytest.raises(DataError, match=r"several tables could say where the val split is: a\.csv, b\.csv") as caught:
        find_table(tmp_path, "val", "val")
    assert caught.value.problems[0].hint == "name one: data.val.images=. data.val.masks=a.csv"
