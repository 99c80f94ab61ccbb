"""What writers make of sets that do not fit: refused by name, or mended and counted. Whole sets: test_round_trips."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from densenet_suite.detection.coco_writer import write_coco
from densenet_suite.detection.csv_writer import write_csv
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.format_limits import shared_classes
from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.voc_writer import write_voc
from densenet_suite.detection.voc_xml import read_voc
from densenet_suite.detection.yolo_txt import read_yolo
from densenet_suite.detection.yolo_writer import write_yolo
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings


@pytest.fixture
def make(tmp_path):
    """Make a split of pictures of 40 x 30 pixels, each with rows of (label, x1, y1, x2, y2, crowd)."""

    def split(images, classes=("cat", "dog"), name="train", ids=None):
        found, count = [], 0
        for number, (file, rows) in enumerate(images.items(), start=1):
            path = tmp_path / "in" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30)).save(path)
            boxes = np.array([row[1:5] for row in rows], np.float64).reshape(-1, 4)
            objects = Objects(
                boxes,
                np.array([row[0] for row in rows], np.int64),
                np.array([bool(row[5:] and row[5]) for row in rows], bool),
                (boxes[:, 2:] - boxes[:, :2]).prod(1),
                tuple(ids or range(count + 1, count + len(rows) + 1)),
                (None,) * len(rows),
            )
            count += len(rows)
            found.append(LabelledImage(number, path, 30, 40, objects))
        return DetectionSet(name, tmp_path, ClassTable.numbered(classes), tuple(found), Findings("in"))

    return split


def _counts(findings):
    return {finding.check: finding.count for finding in findings}


def test_splits_with_pictures_of_one_name_get_folders_of_their_own_in_voc(make, tmp_path):
    sets = {name: make({"a.png": [(0, 1, 1, 5, 5), (1, 2, 2, 4, 4)]}, name=name) for name in ("train", "val")}
    write_voc(sets, tmp_path / "out")
    assert (tmp_path / "out" / "ImageSets" / "Main" / "val.txt").read_text() == "val/a\n"
    names = tmp_path / "out" / "ImageSets" / "Main" / "val.txt"
    found = read_voc("val", tmp_path / "out" / "Annotations", tmp_path / "out" / "JPEGImages", names=names)
    assert found.paths == (tmp_path / "out" / "JPEGImages" / "val" / "a.png",)


def test_voc_is_written_as_its_readers_know_it(make, tmp_path):
    write_voc({"train": make({"a.png": [(1, 0, 2, 10, 12.5, True)]}, ("dog & cat", "<x>"))}, tmp_path / "out")
    root = ElementTree.parse(tmp_path / "out" / "Annotations" / "a.xml").getroot()
    assert {element.tag: element.text for element in root.iter() if len(element) == 0} == {
        "filename": "a.png", "width": "40", "height": "30", "name": "<x>", "difficult": "1",
        "xmin": "1", "ymin": "3", "xmax": "10", "ymax": "12.5",
    }  # fmt: skip
    assert (tmp_path / "out" / "ImageSets" / "Main" / "train.txt").read_text() == "a\n"


def test_yolo_is_written_as_its_readers_know_it(make, tmp_path):
    write_yolo({"train": make({"a.png": [(1, 4, 3, 8, 9)], "b.png": []}, ("yes", "ü"))}, tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert content == {"train": "images/train", "nc": 2, "names": {0: "yes", 1: "ü"}}
    assert (tmp_path / "out" / "labels" / "train" / "a.txt").read_text() == "1 0.150000 0.200000 0.100000 0.200000\n"
    assert (tmp_path / "out" / "labels" / "train" / "b.txt").read_text() == ""


def test_boxes_that_leave_the_picture_are_cut_off_for_yolo_only_where_shares_end(make, tmp_path):
    rows = [(0, -1, -1, 20, 20), (0, -10, 0, 45, 10), (1, 35, 0, 60, 5)]
    lost = write_yolo({"train": make({"a.png": rows})}, tmp_path / "out")["train"]
    assert _counts(lost)["box-cut-off"] == 2
    (image,) = read_yolo("train", tmp_path / "out" / "data.yaml").images
    assert image.objects.boxes.tolist() == [[-1, -1, 20, 20], [0, 0, 40, 10], [35, 0, 40, 5]]


def test_a_class_without_objects_is_lost_where_there_is_no_list(make, tmp_path):
    sets = {"train": make({"a.png": [(1, 1, 1, 5, 5)]}), "val": make({"b.png": [(0, 1, 1, 5, 5)]}, name="val")}
    for write in (write_voc, write_csv):
        lost = write(sets, tmp_path / write.__name__)
        (found,) = [finding for finding in lost["train"] if finding.check == "class-lost"]
        assert found.examples == [
            "class 'cat' has no object in the train split, and there is no list of classes: "
            "the val split, where it has some, cannot be read with it"
        ]
    for write in (write_coco, write_yolo):
        assert "class-lost" not in _counts(write(sets, tmp_path / write.__name__)["train"])


def test_ids_that_are_used_twice_are_numbered_anew(make, tmp_path):
    lost = write_coco({"train": make({"a.png": [(0, 1, 1, 5, 5), (0, 1, 1, 6, 6)]}, ids=(9, 9))}, tmp_path / "out")
    assert _counts(lost["train"]) == {"annotation-ids-numbered": 1}
    content = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert [annotation["id"] for annotation in content["annotations"]] == [1, 2]


@pytest.mark.parametrize("names", [("a\nb", "c"), ("a", " a"), (" ", "b"), ("\ud800", "b")])
def test_names_that_cannot_be_written_are_refused(make, names):
    with pytest.raises(DataError, match=r"the class name .* cannot be written"):
        shared_classes({"train": make({"a.png": []}, names)})


def test_splits_that_do_not_belong_together_are_refused(make):
    with pytest.raises(DataError, match="the splits have different classes"):
        shared_classes({"train": make({"a.png": []}), "val": make({"a.png": []}, ("cat",))})
    with pytest.raises(DataError, match="there is no split to write"):
        shared_classes({})


def test_spaces_around_names_of_classes_are_counted(make, tmp_path):
    sets = {"train": make({"a.png": [(0, 1, 1, 5, 5), (1, 1, 1, 5, 5)]}, (" cat", "dog"))}
    for write in (write_voc, write_yolo, write_csv):
        assert _counts(write(sets, tmp_path / write.__name__)["train"])["class-name-stripped"] == 1
    assert not _counts(write_coco(sets, tmp_path / "coco")["train"])
