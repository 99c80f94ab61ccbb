"""One set in every format gives the same objects, and trains."""

import logging

import numpy as np
import pytest
from detection_formats import WRITERS

import densenet_suite as ds
from densenet_suite.config.load import load_config
from densenet_suite.detection.data import DetectionData
from densenet_suite.errors import ConfigError
from densenet_suite.training.detection import DETECTION

# of a box's corner in pixels: sums of decimals in VOC and CSV, six decimals of 640 pixels in YOLO
PRECISION = {"voc": 1e-9, "yolo": 1e-3, "csv": 1e-9}
EXPECTED = {"voc": set(), "yolo": {"image-without-labels"}, "csv": set()}  # there are pictures of nothing
REASON = {
    "voc": "Pascal VOC, as there are XML files in {root}/Annotations, listed in {root}/ImageSets/Main/val.txt",
    "yolo": "YOLO, as {root}/data.yaml has names and val",
    "csv": "CSV, as {root}/val.csv has columns of boxes",
}


def _data(root, **options):
    return DetectionData(root, (64, 96), 4, workers=0, **options)


def _assert_same(found, coco, precision):
    assert [image.path.name for image in found.images] == [image.path.name for image in coco.images]
    for ours, theirs in zip(found.images, coco.images, strict=True):
        assert (ours.height, ours.width) == (theirs.height, theirs.width)
        np.testing.assert_allclose(ours.objects.boxes, theirs.objects.boxes, rtol=0, atol=precision)
        names = [found.classes.names[label] for label in ours.objects.labels]
        assert names == [coco.classes.names[label] for label in theirs.objects.labels]
        boxes = theirs.objects.boxes
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        np.testing.assert_allclose(ours.objects.areas, areas, rtol=1e-3)


@pytest.fixture(scope="module")
def written(synthetic, tmp_path_factory):
    """The synthetic data in each format."""
    return {
        name: write(synthetic, tmp_path_factory.mktemp(name), ("train", "val", "test"))
        for name, write in WRITERS.items()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_synthetic_data_are_the_same_in_every_format(written, synthetic, name):
    ours, theirs = _data(written[name]), _data(synthetic)
    for split in ("train", "val", "test"):
        _assert_same(ours.split(split), theirs.split(split), PRECISION[name])
        assert ours.split(split).classes == ours.classes
        assert {finding.check for finding in ours.split(split).findings} <= EXPECTED[name]
    given = _data(written[name], classes=theirs.classes).split("val")
    assert given.classes is theirs.classes
    for own, coco in zip(given.images, theirs.split("val").images, strict=True):
        assert (own.objects.labels == coco.objects.labels).all()


@pytest.mark.parametrize("name", WRITERS)
def test_the_guess_is_said_with_its_reason(written, caplog, name):
    with caplog.at_level(logging.INFO, logger="densenet_suite"):
        _data(written[name]).split("val")
    assert f"the val split is read as {REASON[name].format(root=written[name])}" in caplog.text


def test_the_format_can_be_overruled(written, synthetic, tmp_path):
    root = WRITERS["yolo"](synthetic, tmp_path / "both", ("train", "val"))
    (root / "train.csv").write_text((written["csv"] / "train.csv").read_text())
    assert _data(root).split("train").annotations == root / "data.yaml"
    assert _data(root, format="csv").split("train").annotations == root / "train.csv"


@pytest.mark.parametrize("name", WRITERS)
def test_a_run_trains_on_it(written, tiny_config, tmp_path, name):
    run = ds.train(tiny_config, [f"data.root={written[name]}", f"data.format={name}", f"output={tmp_path}"])
    assert run.summary["status"] == "finished"


@pytest.mark.parametrize(
    ("name", "annotations", "images"),
    [
        ("voc", "ImageSets/Main/{}.txt", "JPEGImages"),
        ("voc", "ImageSets/Main/{}.txt", None),
        ("yolo", "data.yaml", None),
        ("csv", "{}.csv", "images/{}"),
        ("csv", "{}.csv", None),
    ],
)
def test_a_split_may_be_named(written, synthetic, tiny_config, name, annotations, images):
    places = [f"data.{split}.annotations={annotations.format(split)}" for split in ("train", "val")]
    if images:
        places += [f"data.{split}.images={images.format(split)}" for split in ("train", "val")]
    config = load_config(tiny_config, [f"data.root={written[name]}", *places])
    data = DETECTION.data(config, None)
    for split in ("train", "val"):
        _assert_same(data.split(split), _data(synthetic).split(split), PRECISION[name])


def test_a_format_that_is_not_known_is_refused(tiny_config):
    with pytest.raises(ConfigError, match=r"data\.format"):
        load_config(tiny_config, ["data.format=xml"])
