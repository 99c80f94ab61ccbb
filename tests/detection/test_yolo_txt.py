"""The reader of YOLO files: what it accepts, mends and refuses."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.yolo_txt import read_yolo
from densenet_suite.errors import DataError

YAML = {"names": ["cat", "dog"], "train": "images/train", "val": "images/val"}


@pytest.fixture
def folder(tmp_path):
    """Pictures of 40 x 30 pixels (width x height), images/train/a.png and b.png, with a text file of a."""
    for name in ("images/train", "labels/train"):
        (tmp_path / name).mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / "train" / f"{name}.png")
    return tmp_path


@pytest.fixture
def read(folder):
    def read(text="0 0.5 0.5 0.25 0.5\n", content=None, classes=None, **keys):
        (folder / "data.yaml").write_text(content if content is not None else yaml.safe_dump({**YAML, **keys}))
        for name in ("a", "b"):
            (folder / "labels" / "train" / f"{name}.txt").write_bytes(
                (text if isinstance(text, bytes) else text.encode()) if name == "a" else b""
            )
        return read_yolo("train", folder / "data.yaml", classes)

    return read


def _refusal(read, *arguments, **options):
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    (problem,) = caught.value.problems
    return problem


def _checks(found):
    return {finding.check: finding.count for finding in found.findings}


# what is read


def test_centres_and_sizes_become_corners_in_pixels(read):
    found = read("1 0.5 0.5 0.25 0.5\n\n0 0.125 0.5 0.25 1\n")
    assert found.images[0].objects.boxes.tolist() == [[15, 7.5, 25, 22.5], [0, 0, 10, 30]]
    assert found.images[0].objects.labels.tolist() == [1, 0]
    assert found.images[0].objects.areas.tolist() == [150, 300]
    assert len(found.images[1].objects) == 0
    assert _checks(found) == {}


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (["cat", "dog"], ClassTable(("cat", "dog"), (0, 1))),
        ({0: "cat", 1: "dog"}, ClassTable(("cat", "dog"), (0, 1))),
        ({7: "dog", 0: "cat"}, ClassTable(("cat", "dog"), (0, 7))),
        ([10, 20], ClassTable(("10", "20"), (0, 1))),
    ],
)
def test_names_are_a_list_or_a_mapping(read, names, table):
    assert read(names=names).classes == table


def test_classes_that_are_given_are_matched_by_name(read):
    classes = ClassTable(("dog", "cow", "cat"), (3, 4, 5))
    found = read("0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5\n", classes=classes)
    assert found.classes is classes
    assert found.images[0].objects.labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    "train",
    ["images/train", "./images/train", "../images/train", "images", ["images/train"], "train.txt", ["train.txt"]],
)
def test_a_split_is_a_folder_a_list_or_several(read, folder, train):
    (folder / "train.txt").write_text("./images/train/a.png\nimages/train/b.png\n\n")
    found = read(train=train)
    assert [image.path.name for image in found.images] == ["a.png", "b.png"]
    assert [len(image.objects) for image in found.images] == [1, 0]


def test_a_list_may_hold_whole_paths_inside_the_folder(read, folder):
    (folder / "train.txt").write_text(f"{folder}/images/train/a.png\n")
    assert len(read(train="train.txt")) == 1


def test_a_list_of_whole_paths_may_be_read_from_another_folder(read, folder, monkeypatch):
    (folder / "train.txt").write_text(f"{folder}/images/train/a.png\n{folder}/images/../images/train/a.png\n")
    read(train="train.txt")
    monkeypatch.chdir(folder.parent)
    found = read_yolo("train", f"{folder.name}/data.yaml")
    assert [len(image.objects) for image in found.images] == [1]
    assert _checks(found) == {"image-listed-twice": 1}


def test_a_path_below_the_yaml_is_where_entries_are_relative_to(read):
    assert len(read(path="images", train="train")) == 2


@pytest.mark.parametrize("path", ["/home/someone/else", "../datasets/mine", "gone"])
def test_a_path_of_another_machine_gives_way_to_the_folder_of_the_yaml(read, folder, path):
    found = read(path=path)
    assert _checks(found) == {"yaml-path": 1}
    assert str(next(iter(found.findings))) == f"path {path!r} is no folder below {folder}, which takes its place"
    assert len(found.images[0].objects) == 1


def test_without_a_folder_called_images_labels_lie_beside_the_pictures(tmp_path):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train" / "a.png")
    (tmp_path / "train" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": ["cat"], "train": "train"}))
    assert len(read_yolo("train", tmp_path / "data.yaml").images[0].objects) == 1


def test_a_folder_called_images_above_the_dataset_is_none_of_it(tmp_path):
    root = tmp_path / "images" / "mine"
    (root / "train").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "train" / "a.png")
    (root / "train" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["cat"], "train": "train"}))
    assert len(read_yolo("train", root / "data.yaml").images[0].objects) == 1


def test_the_last_folder_called_images_is_exchanged(tmp_path):
    for name in ("images/images", "images/labels"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "images" / "a.png")
    (tmp_path / "images" / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"names": ["cat"], "train": "images/images"}))
    assert len(read_yolo("train", tmp_path / "data.yaml").images[0].objects) == 1


# what is mended


def test_a_picture_without_a_text_file_has_no_objects_and_is_counted(read, folder):
    read()
    (folder / "labels" / "train" / "b.txt").unlink()
    found = read_yolo("train", folder / "data.yaml")
    assert _checks(found) == {"image-without-labels": 1}
    assert [len(image.objects) for image in found.images] == [1, 0]


def test_text_files_of_no_picture_are_counted(read, folder):
    for name in ("gone.txt", "classes.txt"):
        (folder / "labels" / "train" / name).write_text("0 0.5 0.5 0.25 0.5\n")
    assert _checks(read()) == {"labels-without-image": 1}


def test_a_picture_that_is_listed_twice_is_read_once(read):
    found = read(train=["images/train", "images/train"])
    assert _checks(found) == {"image-listed-twice": 1}
    assert str(next(iter(found.findings))) == "train: 2 pictures are listed twice"
    assert len(found) == 2


@pytest.mark.parametrize(
    ("box", "check", "left"),
    [
        ("0.5 0.5 0 0.5", "box-without-area", 0),
        ("-0.5 0.5 0.25 0.5", "box-outside", 0),
        ("0.95 0.5 0.5 0.5", "box-clipped", 1),
    ],
)
def test_what_can_be_mended_is_counted_with_file_and_line(read, box, check, left):
    found = read(f"\n0 {box}\n")
    assert _checks(found) == {check: 1}
    assert str(next(iter(found.findings))).startswith(f"a.txt:2: box {[float(n) for n in box.split()]} ")
    assert len(found.images[0].objects) == left


def test_an_object_that_is_there_twice_is_kept(read):
    found = read("0 0.5 0.5 0.25 0.5\n" * 2)
    assert not _checks(found)
    assert len(found.images[0].objects) == 2


# what is refused


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("2 0.5 0.5 0.25 0.5", "a.txt:1: class 2 is not in names"),
        ("-1 0.5 0.5 0.25 0.5", "a.txt:1: class -1 is not in names"),
        ("0.5 0.5 0.5 0.25 0.5", "a.txt:1: class 0.5 is not in names"),
        ("nan 0.5 0.5 0.25 0.5", "a.txt:1: class nan is not in names"),
        ("0 0.5 0.5 0.25", "a.txt:1 is '0 0.5 0.5 0.25', not five numbers"),
        ("0 0 0 0 1 1 1", "a.txt:1 is '0 0 0 0 1 1 1', not five numbers"),
        ("cat 0.5 0.5 0.25 0.5", "a.txt:1 is 'cat 0.5 0.5 0.25 0.5', not five numbers"),
        ("0 20 15 10 15", "a.txt:1: box [20.0, 15.0, 10.0, 15.0] has numbers above 1"),
        ("0 0.5 0.5 -0.25 0.5", "a.txt:1: box [0.5, 0.5, -0.25, 0.5]: its width or height is negative"),
        ("0 nan 0.5 0.25 0.5", "a.txt:1: box [nan, 0.5, 0.25, 0.5]: NaN or infinity"),
        ("0 0.5 nan 0.25 0.5", "a.txt:1: box [0.5, nan, 0.25, 0.5]: NaN or infinity"),
    ],
)
def test_what_would_make_a_run_wrong_stops_it_with_file_and_line(read, line, what):
    assert _refusal(read, line).what == what


def test_a_class_counted_from_one_is_told_how_to_count(read):
    assert _refusal(read, "2 0.5 0.5 0.25 0.5").hint == "the numbers are 0, 1: classes are counted from 0"


def test_pictures_without_any_text_file_are_refused(folder):
    (folder / "data.yaml").write_text(yaml.safe_dump(YAML))
    with pytest.raises(DataError) as caught:
        read_yolo("train", folder / "data.yaml")
    (problem,) = caught.value.problems
    first = folder / "labels" / "train" / "a.txt"
    assert problem.what == f"none of the 2 pictures has a text file: the first was looked for at {first}"
    assert problem.hint == "the text file of images/.../a.jpg is labels/.../a.txt"


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"names": []}, "names holds no classes"),
        ({"names": "cat"}, "names holds no classes"),
        ({"names": None}, "names holds no classes"),
        ({"names": ["cat", True]}, "names[1] is True, not a name"),
        ({"names": ["cat", ["dog"]]}, "names[1] is a list, not a name"),
        ({"names": ["cat", ""]}, "names[1] is '', not a name"),
        ({"names": {"0": "cat"}}, "names has a key that is no number from 0: '0'"),
        ({"names": {-1: "cat"}}, "names has a key that is no number from 0: -1"),
        ({"names": ["cat", "cat"]}, "the class name 'cat' stands for several numbers"),
        ({"nc": 3}, "nc is 3, and there are 2 names"),
        ({"train": 7}, "train: 7 is no place below the folder of the yaml"),
        ({"train": {}}, "train: a dict is no place below the folder of the yaml"),
        ({"train": "/etc"}, "train: '/etc' is no place below the folder of the yaml"),
    ],
)
def test_a_yaml_that_makes_no_sense_is_refused(read, keys, what):
    assert _refusal(read, **keys).what == what


def test_a_truth_value_among_names_is_told_to_be_quoted(read):
    problem = _refusal(read, content="names: [cat, no]\ntrain: images/train\n")
    assert problem.hint == "yaml takes yes, no, on and off for truth values: put them in quotes"


def test_a_folder_that_is_not_there_is_named(read, folder):
    problem = _refusal(read, train="pictures")
    assert problem.what == f"train: pictures is neither a folder nor a list of pictures: {folder / 'pictures'}"


@pytest.mark.parametrize("line", ["/etc/a.png", "../../../a/../../b.png"])
def test_a_list_stays_inside_the_folder(read, folder, line):
    (folder / "train.txt").write_text(f"images/train/a.png\n{line}\n")
    problem = _refusal(read, train="train.txt")
    assert problem.what == f"train.txt:2: {line!r} leads out of the dataset's folder {folder}"


@pytest.mark.parametrize("line", ["images/train/gone.png", "x" * 5000, "a\0.png"])
def test_a_listed_picture_that_is_not_there_is_named(read, folder, line):
    (folder / "train.txt").write_text(f"images/train/a.png\n{line}\n")
    assert _refusal(read, train="train.txt").what.endswith(f"({line.split('/')[-1]})")


def test_a_folder_without_pictures_is_refused(read, folder):
    (folder / "empty").mkdir()
    assert _refusal(read, train="empty").what == "there are no images"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("a: &a [1]\nb: *a\n", "yaml holds an alias (*name)"),
        ("- 1\n", "yaml holds a list, not the keys names, train, val"),
        ("", "yaml holds a NoneType, not the keys names, train, val"),
        ("names: [cat\ntrain: x\n", "yaml is not valid: "),
        ("!!python/object/apply:os.system ['true']\n", "yaml is not valid: could not determine a constructor"),
        ("[" * 200_000, "yaml is nested more than 16 deep"),
        ("a: " + "9" * 5000, "yaml cannot be read: "),
        ("a: 2001-99-99\n", "yaml cannot be read: "),
        ("a: \x07\n", "yaml cannot be read: "),
        ("# " + "x" * 300_000, "yaml has 300,002 bytes, the limit is 262,144"),
    ],
)
def test_a_yaml_that_cannot_be_read_is_refused(read, content, what):
    assert _refusal(read, content=content).what.startswith(what)


def test_a_yaml_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="yaml does not exist"):
        read_yolo("train", tmp_path / "data.yaml")


# properties


@settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_gives_a_clear_error_or_a_sound_set(read, data):
    text = b"0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.125 0.5\n"
    at = data.draw(st.integers(0, len(text) - 1))
    put = data.draw(st.binary(max_size=4))
    cut = data.draw(st.integers(0, 4))
    try:
        found = read(text[:at] + put + text[at + cut :])
    except DataError:
        return
    assert all((image.objects.boxes[:, 2:] > image.objects.boxes[:, :2]).all() for image in found.images)
