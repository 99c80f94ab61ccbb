"""The reader of tables: what it accepts, mends and refuses."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_suite.detection.csv_table import read_csv
from densenet_suite.detection.structures import ClassTable
from densenet_suite.errors import DataError

HEADER = "image,xmin,ymin,xmax,ymax,class"


@pytest.fixture
def folder(tmp_path):
    """Pictures of 40 x 30 pixels (width x height), a.png and b.png."""
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def read(folder):
    def read(*rows, header=HEADER, classes=None, name="train"):
        text = "\n".join([header, *rows]) + "\n"
        (folder / "t.csv").write_text(text, encoding="utf-8")
        return read_csv(name, folder / "t.csv", folder, classes)

    return read


def _refusal(read, *rows, **options):
    with pytest.raises(DataError) as caught:
        read(*rows, **options)
    (problem,) = caught.value.problems
    return problem


def _checks(found):
    return {finding.check: finding.count for finding in found.findings}


# what is read


def test_corners_are_edges_in_pixels(read):
    found = read("b.png,1,2.5,11,22.5,dog", "a.png,0,0,40,30,cat", "b.png,0,0,2,2,cat")
    assert [image.path.name for image in found.images] == ["b.png", "a.png"]
    assert found.images[0].objects.boxes.tolist() == [[1, 2.5, 11, 22.5], [0, 0, 2, 2]]
    assert found.images[0].objects.areas.tolist() == [200, 4]
    assert found.images[0].objects.labels.tolist() == [1, 0]
    assert found.classes == ClassTable.numbered(["cat", "dog"])
    assert _checks(found) == {}


def test_a_row_without_corners_is_a_picture_without_objects(read):
    found = read("a.png,,,,,", "b.png,0,0,2,2,cat", "", ",,,,,", header=HEADER)
    assert [len(image.objects) for image in found.images] == [0, 1]


@pytest.mark.parametrize(
    "header",
    [
        "filename,x1,y1,x2,y2,label",
        "image_path,left,top,right,bottom,class_name",
        " Image , XMin , YMin , XMax , YMax , Class ",
        "\ufeffimage,xmin,ymin,xmax,ymax,class",
    ],
)
def test_columns_have_several_names(read, header):
    assert read("a.png,1,2,3,4,cat", header=header).images[0].objects.boxes.tolist() == [[1, 2, 3, 4]]


def test_other_columns_and_another_order_are_no_matter(read):
    found = read("40,30,cat,a.png,1,2,3,4", header="width,height,class,filename,xmin,ymin,xmax,ymax")
    assert found.images[0].objects.boxes.tolist() == [[1, 2, 3, 4]]


def test_names_with_commas_are_quoted(read, folder):
    (folder / "a.png").rename(folder / "a, b.png")
    assert read('"a, b.png",1,2,3,4,"cat, small"').classes.names == ("cat, small",)


def test_a_column_split_chooses_rows(read):
    rows = ("train,a.png,1,2,3,4,cat", "valid,b.png,1,2,3,5,dog")
    for name, file in (("train", "a.png"), ("val", "b.png")):
        found = read(*rows, header=f"split,{HEADER}", name=name)
        assert [image.path.name for image in found.images] == [file]


def test_classes_that_are_given_are_matched_by_name(read):
    classes = ClassTable(("dog", "cat"), (7, 9))
    found = read("a.png,1,2,3,4,cat", classes=classes)
    assert found.classes is classes
    assert found.images[0].objects.labels.tolist() == [1]


# what is mended


@pytest.mark.parametrize(
    ("box", "check", "left"),
    [
        ("5,5,5,9", "box-without-area", 0),
        ("40,5,50,9", "box-outside", 0),
        ("5,5,50,9", "box-clipped", 1),
    ],
)
def test_what_can_be_mended_is_counted_with_file_and_line(read, box, check, left):
    found = read("b.png,0,0,2,2,cat", f"a.png,{box},cat")
    assert _checks(found) == {check: 1}
    assert str(next(iter(found.findings))).startswith(f"t.csv:3: box {[float(n) for n in box.split(',')]} ")
    assert len(found.images[1].objects) == left


def test_a_row_that_is_there_twice_is_kept(read):
    found = read("a.png,1,2,3,4,cat", "a.png,1,2,3,4,cat", "b.png,1,2,3,4,cat")
    assert not _checks(found)
    assert len(found.images[0].objects) == 2


# what is refused


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("a.png,9,1,3,9,cat", "t.csv:2: box [9.0, 1.0, 3.0, 9.0]: its width or height is negative"),
        ("a.png,nan,1,3,9,cat", "t.csv:2: box [nan, 1.0, 3.0, 9.0]: NaN or infinity"),
        ("a.png,1,1,inf,9,cat", "t.csv:2: box [1.0, 1.0, inf, 9.0]: NaN or infinity"),
        ("a.png,1,1,,9,cat", "t.csv:2: box is ['1', '1', '', '9'], not four numbers"),
        ("a.png,1,1,1_0,9,cat", "t.csv:2: box is ['1', '1', '1_0', '9'], not four numbers"),
        ("a.png,1,1", "t.csv:2: box is ['1', '1', '', ''], not four numbers"),
        ("a.png,1,1,3,9,", "t.csv:2: the box has no class"),
        (",1,1,3,9,cat", "t.csv:2: image '' names no file in the image folder"),
        ("../a.png,1,1,3,9,cat", "t.csv:2: image '../a.png' names no file in the image folder"),
        ("/a.png,1,1,3,9,cat", "t.csv:2: image '/a.png' names no file in the image folder"),
    ],
)
def test_what_would_make_a_run_wrong_stops_it_with_file_and_line(read, row, what):
    assert _refusal(read, row).what == what


def test_a_picture_that_is_not_there_is_named_with_its_line(read, folder):
    problem = _refusal(read, "a.png,1,2,3,4,cat", "gone.png,1,2,3,4,cat")
    assert problem.what == f"image file does not exist: {folder / 'gone.png'} (t.csv:3)"


def test_a_strange_split_is_refused(read):
    problem = _refusal(read, "train,a.png,1,2,3,4,cat", "tarin,b.png,1,2,3,4,cat", header=f"split,{HEADER}")
    assert problem.what == "t.csv:3: split 'tarin' is none of train, val, valid, validation, test"


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("image,xmin,ymin,xmax,ymax", "class"),
        ("image;xmin;ymin;xmax;ymax;class", "image, xmin, ymin, xmax, ymax, class"),
        ("", "image, xmin, ymin, xmax, ymax, class"),
    ],
)
def test_missing_columns_are_named(read, folder, header, missing):
    problem = _refusal(read, "a.png,1,2,3,4,cat", header=header)
    assert problem.what == f"table has no column {missing}"
    assert problem.where == f"{folder / 't.csv'}:1"
    assert problem.hint == f"the first line names the columns, separated by commas: {HEADER}"


def test_a_class_that_was_not_trained_on_suggests_the_nearest(read):
    problem = _refusal(read, "a.png,1,2,3,4,cats", classes=ClassTable.numbered(["cat"]))
    assert problem.what == "class 'cats' (t.csv:2: box [1.0, 2.0, 3.0, 4.0]) is not among the classes trained on"
    assert problem.hint == "did you mean cat?"


def test_a_table_without_rows_is_refused(read):
    with pytest.raises(DataError) as caught:
        read()
    whats = [problem.what for problem in caught.value.problems]
    assert whats == ["no image has an object, so that there are no classes", "there are no images"]


def test_a_cell_without_end_is_refused(read, folder):
    problem = _refusal(read, "a.png,1,2,3,4," + "x" * 200_000)
    assert problem.what.startswith("table cannot be read: field larger than field limit")
    assert problem.where == f"{folder / 't.csv'}:2"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="annotation file does not exist"):
        read_csv("train", tmp_path / "t.csv", tmp_path)


# properties


@settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_table_gives_a_clear_error_or_a_sound_set(folder, data):
    text = f"{HEADER}\na.png,1,2,3,4,cat\nb.png,5,6,7,8,dog\n".encode()
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, 4))
    (folder / "t.csv").write_bytes(text[:at] + put + text[at + cut :])
    try:
        found = read_csv("train", folder / "t.csv", folder)
    except DataError:
        return
    assert all((image.objects.boxes[:, 2:] > image.objects.boxes[:, :2]).all() for image in found.images)


# crowd regions


def test_a_column_marks_crowd_regions(read):
    found = read("a.png,0,0,4,3,cat,1", "a.png,0,0,5,3,cat,0", "a.png,0,0,6,3,cat,", header=f"{HEADER},crowd")
    assert found.images[0].objects.crowd.tolist() == [True, False, False]


def test_crowd_is_a_yes_or_a_no(read):
    problem = _refusal(read, "a.png,0,0,4,3,cat,perhaps", header=f"{HEADER},crowd")
    assert problem.what == "t.csv:2: crowd is 'perhaps', and neither 1 nor 0 nor empty"


def test_only_line_feeds_end_rows(read):
    found = read("a.png,0,0,4,3,c\u2028at", "b.png,0,0,4,3,d\x0bog")
    assert found.classes.names == ("c\u2028at", "d\x0bog")
