import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from densenet_suite.detection.coco_json import read_coco
from densenet_suite.synthetic import SHAPES, write_synthetic


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data"), {"train": 40, "val": 3}, size=(64, 96))


@pytest.fixture(scope="module")
def images(dataset):
    return _read(dataset, "train").images


def _read(root, split):
    return read_coco(split, root / "annotations" / f"instances_{split}.json", root / "images" / split)


def _digest(root):
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return [(file.relative_to(root), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


@pytest.mark.parametrize(("split", "count"), [("train", 40), ("val", 3)])
def test_it_is_a_dataset_in_which_nothing_is_found_wrong(dataset, split, count):
    found = _read(dataset, split)
    assert len(found) == count
    assert list(found.findings) == []
    assert found.classes.names == SHAPES


def test_pictures_have_the_size_asked_for(images):
    assert {(image.height, image.width) for image in images} == {(64, 96)}


def test_boxes_lie_in_their_pictures(images):
    for image in images:
        assert (image.objects.boxes == image.objects.clipped(64, 96)).all()


def test_it_holds_all_classes_several_sizes_and_empty_pictures(images):
    labels = np.concatenate([image.objects.labels for image in images])
    areas = np.concatenate([image.objects.areas for image in images])
    assert set(labels.tolist()) == set(range(len(SHAPES)))
    assert areas.max() > 10 * areas.min()
    assert any(len(image.objects) == 0 for image in images)
    assert any(len(image.objects) > 3 for image in images)


def test_the_seed_decides_every_pixel(tmp_path):
    first, again, other = (
        write_synthetic(tmp_path / name, {"train": 3}, size=(48, 64), seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert _digest(first) == _digest(again) != _digest(other)


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path):
    few = write_synthetic(tmp_path / "few", {"train": 2}, size=(48, 64))
    more = write_synthetic(tmp_path / "more", {"train": 4}, size=(48, 64))
    names = sorted(file.name for file in (few / "images" / "train").iterdir())
    assert [(few / "images/train" / n).read_bytes() for n in names] == [
        (more / "images/train" / n).read_bytes() for n in names
    ]


def test_splits_show_different_pictures(tmp_path):
    root = write_synthetic(tmp_path, {"train": 1, "val": 1}, size=(48, 64))
    train, val = (np.asarray(Image.open(root / "images" / s / f"{s}_0000.jpg")) for s in ("train", "val"))
    assert (train != val).any()


def test_areas_are_those_of_the_boxes(dataset):
    content = json.loads((dataset / "annotations" / "instances_train.json").read_text())
    for annotation in content["annotations"]:
        assert annotation["area"] == pytest.approx(annotation["bbox"][2] * annotation["bbox"][3], abs=0.01)


def test_shapes_stand_out_from_what_is_behind_them(images):
    contrasts = []
    for image in images:
        pixels = np.asarray(Image.open(image.path), np.float64)
        for x1, y1, x2, y2 in image.objects.boxes.round().astype(int):
            inside = pixels[(y1 + y2) // 2, (x1 + x2) // 2]
            around = pixels[max(0, y1 - 3) : y2 + 3, max(0, x1 - 3) : x2 + 3]
            frame = np.concatenate([around[0], around[-1]]).mean(0)
            contrasts.append(np.linalg.norm(inside - frame))
    assert np.median(contrasts) > 50
