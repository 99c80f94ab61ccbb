import csv
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from densenet_suite import ConfigError
from densenet_suite.detection.prediction import Prediction
from densenet_suite.detection.prediction_files import OUTPUTS, save_predictions
from densenet_suite.detection.structures import ClassTable

CLASSES = ClassTable(("cat", "dög"), (17, 18))


@pytest.fixture
def predictions(tmp_path):
    found = []
    for i, name in enumerate(("a.png", "sub/a.png", "b.png")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 90 * i, np.uint8)).save(path)
        boxes = np.array([[1, 2, 11, 22], [5, 5, 9, 8]], np.float32)[: 2 - i]
        scores, labels = np.array([0.9, 0.4])[: 2 - i], np.array([1, 0])[: 2 - i]
        found.append(Prediction(path, (30, 40), boxes, scores, labels, CLASSES))
    return found  # of two objects, of one, of none


def failing(predictions):
    yield from predictions[:2]
    raise RuntimeError("the third cannot be read")


def test_predictions_pass_through(predictions, tmp_path):
    assert list(save_predictions(predictions, tmp_path / "out")) == predictions


def test_nothing_is_written_before_it_is_asked_for(predictions, tmp_path):
    passing = save_predictions(predictions, tmp_path / "out", ["pictures"])
    next(passing)
    assert [path.name for path in (tmp_path / "out").glob("*.jpg")] == ["a.jpg"]
    passing.close()


def test_the_table_has_a_row_for_each_object(predictions, tmp_path):
    list(save_predictions(predictions, tmp_path / "out", ["csv"]))
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["dög", "cat", "dög"]
    assert rows[0] == {
        "path": str(predictions[0].path),
        "class": "dög",
        "score": "0.9",
        "x1": "1.0",
        "y1": "2.0",
        "x2": "11.0",
        "y2": "22.0",
    }


def test_the_document_is_coco_with_every_image_and_is_read_by_pycocotools(predictions, tmp_path, capsys):
    list(save_predictions(predictions, tmp_path / "out", ["coco"]))
    document = COCO(str(tmp_path / "out" / "predictions.coco.json"))
    assert [image["file_name"] for image in document.imgs.values()] == [str(p.path) for p in predictions]
    assert {category["id"]: category["name"] for category in document.cats.values()} == {17: "cat", 18: "dög"}
    assert [annotation["category_id"] for annotation in document.anns.values()] == [18, 17, 18]
    first = document.anns[1]
    assert (first["bbox"], first["area"], first["image_id"]) == ([1.0, 2.0, 10.0, 20.0], 200.0, 1)


def test_no_predictions_make_an_empty_document(tmp_path):
    assert list(save_predictions([], tmp_path / "out", ["coco", "csv"])) == []
    document = json.loads((tmp_path / "out" / "predictions.coco.json").read_text())
    assert (document["images"], document["annotations"]) == ([], [])
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 1


def test_pictures_of_one_name_do_not_overwrite_each_other(predictions, tmp_path):
    list(save_predictions(predictions, tmp_path / "out", ["pictures"]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-2.jpg", "a.jpg", "b.jpg"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_only_what_is_asked_for_is_written(output, predictions, tmp_path):
    list(save_predictions(predictions[:1], tmp_path / "out", [output]))
    expected = {"pictures": "a.jpg", "coco": "predictions.coco.json", "csv": "predictions.csv"}[output]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [expected]


def test_an_unknown_output_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot save html, xml(.|\n)*known are pictures, coco, csv"):
        save_predictions([], tmp_path / "out", ["csv", "xml", "html"])
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_the_files_with_what_came_before(predictions, tmp_path):
    with pytest.raises(RuntimeError, match="the third cannot be read"):
        list(save_predictions(failing(predictions), tmp_path / "out", ["coco", "csv"]))
    document = json.loads((tmp_path / "out" / "predictions.coco.json").read_text())
    assert (len(document["images"]), len(document["annotations"])) == (2, 3)
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 4
