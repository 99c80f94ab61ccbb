import numpy as np
import pytest
import torch
from peers import randomize
from PIL import Image
from scenes import tiny_detector

from densenet_suite import DataError, Postprocess
from densenet_suite.detection.prediction import Prediction, Predictor
from densenet_suite.detection.structures import ClassTable

CLASSES = ClassTable(("cat", "dog"), (17, 18))


def picture(folder, name, height, width):
    pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.fixture(scope="module")
def model():
    return randomize(tiny_detector(3)).eval()


def predictor(model, **options):
    return Predictor(model, (64, 96), Postprocess(score_threshold=0.3, max_detections=20), **options)


def prediction(path, boxes=((1.004, 2, 11.5, 22),), scores=(0.123456789,), labels=(1,)):
    return Prediction(path, (30, 40), np.array(boxes, np.float32), np.array(scores), np.array(labels), CLASSES)


@pytest.mark.parametrize("size", [(64, 96), (300, 100), (5, 400), (64, 48)])
def test_boxes_are_in_pixels_of_the_file_and_inside_it(size, model, tmp_path):
    (found,) = predictor(model)([picture(tmp_path, "a.png", *size)])
    assert found.size == size
    assert len(found) > 0
    assert found.boxes.min() >= 0
    assert (found.boxes[:, 2] <= size[1]).all()
    assert (found.boxes[:, 3] <= size[0]).all()


def test_a_picture_as_large_as_the_network_gets_the_networks_own_boxes(model, tmp_path):
    path = picture(tmp_path, "a.png", 64, 96)
    (found,) = predictor(model)([path])
    images = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None]
    with torch.no_grad():
        (expected,) = Postprocess(score_threshold=0.3, max_detections=20)(model(images), torch.tensor([[64.0, 96.0]]))
    np.testing.assert_allclose(found.boxes, expected.boxes.numpy(), atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-5)
    assert found.labels.tolist() == expected.labels.tolist()


def test_twice_the_pixels_give_twice_the_boxes(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels.repeat(2, 0).repeat(2, 1)).save(tmp_path / "b.png")  # shrinks to the former
    once, twice = predictor(model)([tmp_path / "a.png", tmp_path / "b.png"])
    assert twice.size == (128, 192)
    assert len(once) == len(twice) > 0


@pytest.mark.parametrize("batch", [1, 3])
def test_the_number_of_pictures_at_a_time_changes_nothing(batch, model, tmp_path):
    paths = [picture(tmp_path, f"{i}.png", 64, 90 + i) for i in range(5)]
    together = list(predictor(model)(paths))
    apart = list(predictor(model, batch=batch)(paths))
    assert [found.path for found in apart] == paths
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, rtol=1e-4, atol=1e-2)


def test_pictures_are_read_as_they_are_asked_for(model, tmp_path):
    paths = (picture(tmp_path, f"{i}.png", 64, 96) if i < 2 else pytest.fail("read ahead") for i in range(9))
    predictions = predictor(model, batch=2)(paths)
    assert next(predictions).path.name == "0.png"


def test_files_that_cannot_be_read_are_named_after_the_others(model, tmp_path):
    (tmp_path / "b.png").write_bytes(b"not a picture")
    (tmp_path / "c.png").write_bytes(b"")
    good = [picture(tmp_path, name, 64, 96) for name in ("a.png", "d.png")]
    predictions = predictor(model, batch=2)([good[0], tmp_path / "b.png", tmp_path / "c.png", good[1]])
    seen = []
    with pytest.raises(DataError, match=r"not an image(.|\n)*b\.png(.|\n)*is empty(.|\n)*c\.png"):
        seen.extend(found.path for found in predictions)
    assert seen == good


def test_no_pictures_give_no_predictions(model):
    assert list(predictor(model)([])) == []


def test_names_are_those_of_the_labels(tmp_path):
    assert prediction(tmp_path, labels=(1,)).names == ["dog"]


def test_coco_results_have_the_datasets_ids_and_rounded_numbers(tmp_path):
    assert prediction(tmp_path).to_coco(5) == [
        {"image_id": 5, "category_id": 18, "bbox": [1.0, 2.0, 10.5, 20.0], "score": 0.12346}
    ]


def test_a_drawing_shows_the_objects_on_the_picture(tmp_path):
    path = picture(tmp_path, "a.png", 30, 40)
    empty = prediction(path, np.zeros((0, 4)), (), ()).draw()
    drawn = prediction(path).draw()
    assert drawn.size == empty.size
    assert np.any(np.asarray(drawn) != np.asarray(empty))
