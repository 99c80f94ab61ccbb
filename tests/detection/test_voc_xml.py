"""The reader of Pascal VOC files: what it accepts, mends and refuses."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.voc_xml import read_voc
from densenet_suite.errors import DataError

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture
def folder(tmp_path):
    """Pictures of 40 x 30 pixels (width x height), a.png and b.png, and a folder for annotations."""
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / f"{name}.png")
    return tmp_path


@pytest.fixture
def read(folder):
    def read(*objects, text=None, classes=None, names=None):
        content = f"<annotation>\n{''.join(objects)}</annotation>" if text is None else text
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "Annotations" / "a.xml").write_bytes(data)
        if names is not None:
            (folder / "train.txt").write_text(names)
        else:
            (folder / "Annotations" / "b.xml").write_text("<annotation/>")
        listed = folder / "train.txt" if names is not None else None
        return read_voc("train", folder / "Annotations", folder / "JPEGImages", classes, listed)

    return read


def _object(*corners, name="cat", more=""):
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(CORNERS, corners, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>\n"


def _refusal(read, *objects, **options):
    with pytest.raises(DataError) as caught:
        read(*objects, **options)
    (problem,) = caught.value.problems
    return problem


def _checks(found):
    return {finding.check: finding.count for finding in found.findings}


# what is read


def test_pixels_counted_from_one_become_edges_counted_from_nought(read):
    found = read(_object(1, 1, 40, 30), _object(5, 6, 5, 6), _object(2.5, 3, 11, 12))
    assert found.images[0].objects.boxes.tolist() == [[0, 0, 40, 30], [4, 5, 5, 6], [1.5, 2, 11, 12]]
    assert found.images[0].objects.areas.tolist() == [1200, 1, 95]
    assert _checks(found) == {}


def test_difficult_objects_are_forgiven_like_crowds(read):
    found = read(
        _object(1, 1, 9, 9, more="<difficult>1</difficult>"), _object(1, 1, 9, 8, more="<difficult>0</difficult>")
    )
    assert found.images[0].objects.crowd.tolist() == [True, False]
    assert found.report()["crowd_regions"] == 1


def test_an_annotation_without_objects_is_an_empty_picture(read):
    found = read(_object(1, 1, 9, 9))
    assert [len(image.objects) for image in found.images] == [1, 0]
    assert [image.id for image in found.images] == [1, 2]


def test_boxes_of_parts_are_not_those_of_objects(read):
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    found = read(_object(1, 1, 9, 9, more=part))
    assert found.classes.names == ("cat",)
    assert found.images[0].objects.boxes.tolist() == [[0, 0, 9, 9]]


def test_classes_are_the_names_that_occur_sorted(read):
    found = read(_object(1, 1, 9, 9, name="dog"), _object(1, 1, 9, 9, name="ant"))
    assert found.classes == ClassTable.numbered(["ant", "dog"])
    assert found.images[0].objects.labels.tolist() == [1, 0]


def test_classes_that_are_given_are_matched_by_name(read):
    classes = ClassTable(("dog", "cat"), (7, 9))
    found = read(_object(1, 1, 9, 9), classes=classes)
    assert found.classes is classes
    assert found.images[0].objects.labels.tolist() == [1]


def test_a_list_chooses_files_and_their_order(read, folder):
    (folder / "Annotations" / "b.xml").write_text("<annotation/>")
    found = read(_object(1, 1, 9, 9), names="b\na\n\nb\n")
    assert [image.path.name for image in found.images] == ["b.png", "a.png"]
    assert found.annotations == folder / "train.txt"
    assert _checks(found) == {"image-listed-twice": 1}


def test_a_picture_of_another_name_is_the_one_that_the_file_gives(read, folder):
    (folder / "JPEGImages" / "a.png").rename(folder / "JPEGImages" / "other.png")
    found = read("<filename>other.png</filename>", _object(1, 1, 9, 9))
    assert found.images[0].path.name == "other.png"


def test_the_same_name_goes_before_the_one_that_the_file_gives(read):
    found = read("<filename>b.png</filename>", _object(1, 1, 9, 9))
    assert [image.path.name for image in found.images] == ["a.png", "b.png"]


def test_of_two_endings_the_file_says_which(read, folder):
    Image.new("RGB", (8, 8)).save(folder / "JPEGImages" / "a.jpg")
    found = read("<filename>a.jpg</filename>", _object(1, 1, 8, 8))
    assert found.images[0].path.name == "a.jpg"


@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>", "<size><width>x</width></size>"]
)
def test_a_size_that_is_not_known_is_that_of_the_picture(read, size):
    image = read(size, _object(1, 1, 9, 9)).images[0]
    assert (image.height, image.width) == (30, 40)


def test_the_files_of_the_source_are_read(data_folder):
    root = data_folder("bccd")
    found = read_voc("val", root / "voc-xml" / "val", root / "images" / "val")
    assert len(found) == 87
    assert found.classes.names == ("Platelets", "RBC", "WBC")
    assert {finding.severity for finding in found.findings} <= {"warning"}


# what is mended


@pytest.mark.parametrize(
    ("corners", "check", "left"),
    [
        ((6, 5, 5, 9), "box-without-area", 0),
        ((41, 5, 50, 9), "box-outside", 0),
        ((5, 5, 50, 9), "box-clipped", 1),
        ((-4, 5, 9, 9), "box-clipped", 1),
    ],
)
def test_what_can_be_mended_is_counted_with_file_and_line(read, corners, check, left):
    found = read(_object(*corners))
    assert _checks(found) == {check: 1}
    assert str(next(iter(found.findings))).startswith(f"a.xml:2: bndbox {[float(c) for c in corners]} ")
    assert len(found.images[0].objects) == left


def test_an_object_that_is_there_twice_is_kept(read):
    found = read(_object(1, 1, 9, 9), _object(1, 1, 9, 9), _object(1, 1, 9, 9, name="dog"))
    assert not _checks(found)
    assert len(found.images[0].objects) == 3


def test_a_picture_without_annotation_is_left_out_and_counted(read, folder):
    Image.new("RGB", (4, 4)).save(folder / "JPEGImages" / "c.png")
    found = read(_object(1, 1, 9, 9))
    assert _checks(found) == {"image-without-annotation": 1}
    assert len(found) == 2


# what is refused


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (_object(9, 1, 3, 9), "a.xml:2: bndbox [9.0, 1.0, 3.0, 9.0]: its width or height is negative"),
        (_object("nan", 1, 3, 9), "a.xml:2: bndbox [nan, 1.0, 3.0, 9.0]: NaN or infinity"),
        (_object("x", 1, 3, 9), "a.xml:2: bndbox is ['x', '1', '3', '9'], not four numbers"),
        (_object(1, 1, 3), "a.xml:2: bndbox is ['1', '1', '3', ''], not four numbers"),
        ("<object><name>cat</name></object>", "a.xml:2: bndbox is ['', '', '', ''], not four numbers"),
        (_object(1, 1, 3, 9, name=" "), "a.xml:2: the object has no name"),
        (
            "<size><width>30</width><height>40</height></size>",
            "a.xml says 30x40 (width x height), the picture a.png is 40x30",
        ),
    ],
)
def test_what_would_make_a_run_wrong_stops_it_with_file_and_line(read, entry, what):
    assert _refusal(read, entry).what == what


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0"?>\n<!DOCTYPE annotation [<!ENTITY a "b">]>\n<annotation>&a;</annotation>',
        '<?xml version="1.0"?>\n<!DOCTYPE annotation SYSTEM "file:///etc/passwd">\n<annotation/>',
        '<?xml version="1.0" encoding="cp037"?>\n<!DOCTYPE annotation>\n<annotation/>',
    ],
)
def test_a_document_type_is_refused(read, folder, text):
    problem = _refusal(read, text=text)
    assert problem.what == (
        "annotation file declares a document type, by which XML can name other files or grow without end: "
        f"{folder / 'Annotations' / 'a.xml'}:2"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "annotation file is not valid XML: no element found: "),
        ("<annotation>\n<object>", "annotation file is not valid XML: no element found: "),
        ("<annotation></object>", "annotation file is not valid XML: mismatched tag: "),
        ("<annotation>&lol;</annotation>", "annotation file is not valid XML: undefined entity: "),
        ("<html/>", "annotation file holds <html>, not <annotation>: "),
        (b"<annotation>\xff</annotation>", "annotation file cannot be read: 'utf-8' codec"),
        ("<annotation/>".encode("utf-16"), "annotation file cannot be read: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_no_annotation_is_refused(read, text, what):
    problem = _refusal(read, text=text)
    assert problem.what.startswith(what)
    assert "a.xml" in problem.what


def test_a_file_without_end_is_refused(read, monkeypatch):
    monkeypatch.setattr("densenet_suite.detection.voc_xml._XML_BYTES", 100)
    assert "bytes, the limit is 100" in _refusal(read, *[_object(1, 1, 9, 9)] * 9).what


def test_a_listed_file_that_is_not_there_is_refused(read):
    assert "annotation file does not exist" in _refusal(read, _object(1, 1, 9, 9), names="a\ngone\n").what


@pytest.mark.parametrize("name", ["../a", "/etc/a"])
def test_a_list_stays_inside_its_folder(read, name):
    problem = _refusal(read, _object(1, 1, 9, 9), names=f"a\n{name}\n")
    assert problem.what == f"line 2: {name!r} leads out of the folder of annotations"


@pytest.mark.parametrize("given", ["", "gone.png", "../JPEGImages/b.png", "/etc/passwd", "x" * 5000])
def test_an_annotation_without_picture_is_refused(read, folder, given):
    (folder / "JPEGImages" / "a.png").unlink()
    problem = _refusal(read, f"<filename>{given}</filename>", _object(1, 1, 9, 9))
    assert problem.what == f"a.xml: there is no picture of this name in {folder / 'JPEGImages'}"
    assert problem.hint == "say where the pictures are: data.train.images=... (or val, test)"


def test_two_annotations_of_one_picture_are_refused(read, folder):
    (folder / "JPEGImages" / "a.png").unlink()
    (folder / "Annotations" / "b.xml").write_text("<annotation/>")
    problem = _refusal(read, "<filename>b.png</filename>", _object(1, 1, 9, 9))
    assert problem.what == "b.xml and a.xml are both of the picture b.png"


def test_a_damaged_picture_is_named(read, folder):
    (folder / "JPEGImages" / "a.png").write_bytes(b"<html>")
    problem = _refusal(read, _object(1, 1, 9, 9))
    assert problem.what == f"file is not an image of a known kind: {folder / 'JPEGImages' / 'a.png'} (a.xml)"


def test_a_class_that_was_not_trained_on_suggests_the_nearest(read):
    problem = _refusal(read, _object(1, 1, 9, 9, name="cats"), classes=ClassTable.numbered(["cat"]))
    assert problem.what == ("class 'cats' (a.xml:2: bndbox [1.0, 1.0, 9.0, 9.0]) is not among the classes trained on")
    assert problem.hint == "did you mean cat?"


def test_a_set_without_any_object_has_no_classes(read):
    assert _refusal(read).what == "no image has an object, so that there are no classes"


# properties


@settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_gives_a_clear_error_or_a_sound_set(read, data):
    text = f"<annotation>\n<size><width>40</width><height>30</height></size>{_object(1, 2, 9, 9)}</annotation>".encode()
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, 4))
    try:
        found = read(text=text[:at] + put + text[at + cut :])
    except DataError:
        return
    assert all((image.objects.boxes[:, 2:] > image.objects.boxes[:, :2]).all() for image in found.images)
