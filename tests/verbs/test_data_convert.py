"""`data convert`: every format from every other, with counts, whole or not at all."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

import densenet_suite as ds
from densenet_suite import cli
from densenet_suite.config.load import load_config
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.synthetic import MASK_CLASSES
from densenet_suite.training.slices import SLICES
from densenet_suite.verbs.data_convert import convert_data
from densenet_suite.verbs.dataset import open_dataset

BOXES = ("coco", "voc", "yolo", "csv", "shards")
CLASSES = f"data.classes={yaml.safe_dump(MASK_CLASSES, default_flow_style=True).strip()}"


def _splits(place, *overrides, task=None):
    data = open_dataset(place, overrides, task=task).data
    data.holdout = 0
    return data.splits


def _assert_same_boxes(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, split in ours.items():
        for a, b in zip(split.images, theirs[name].images, strict=True):
            assert a.path.stem == b.path.stem
            assert (a.objects.boxes == b.objects.boxes).all()
            names = [
                [of.classes.names[i] for i in image.objects.labels] for of, image in ((split, a), (theirs[name], b))
            ]
            assert names[0] == names[1]


def _masks(split):
    names = list(split.classes.names)
    return {scene.path.stem: (names, scene.mask.decode().mask) for scene in split.scenes}


def _assert_same_masks(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, split in ours.items():
        found, wanted = _masks(split), _masks(theirs[name])
        assert found.keys() == wanted.keys()
        for key, (names, mask) in found.items():
            assert names == wanted[key][0]
            assert (mask == wanted[key][1]).all()


@pytest.mark.parametrize("to", BOXES)
def test_boxes_are_the_same_in_every_format(synthetic, tmp_path, to):
    made = convert_data(synthetic, out=tmp_path / "out", to=to, task="detection")
    theirs = _splits(synthetic, task="detection")
    _assert_same_boxes(_splits(tmp_path / "out", task="detection"), theirs)
    assert list(made.counts) == ["train", "val", "test"]
    assert made.counts["train"] == {
        "images": 12,
        "objects": sum(len(image.objects) for image in theirs["train"].images),
        "crowd regions": 0,
    }
    if to in ("coco", "shards"):
        assert not any(findings.to_list() for findings in made.lost.values())
        assert "nothing was lost in writing" in str(made)


@pytest.mark.parametrize("to", ["coco", "masks", "palette", "colours", "layers", "shards"])
def test_masks_are_the_same_in_every_format(synthetic, tmp_path, to):
    convert_data(synthetic, [CLASSES], out=tmp_path / "out", to=to, task="segmentation")
    theirs = _splits(synthetic, CLASSES, task="segmentation")
    if to == "layers":
        ours = _splits(tmp_path / "out", "data.multilabel=true", task="segmentation")
        for name, split in ours.items():
            for a, b in zip(split.scenes, theirs[name].scenes, strict=True):
                assert (a.mask.decode().mask.argmax(0) == b.mask.decode().mask).all()
                assert (a.mask.decode().mask.sum(0) == 1).all()
        return
    _assert_same_masks(_splits(tmp_path / "out", task="segmentation"), theirs)


def test_boxes_go_around_connected_regions_and_are_counted(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder / "train").mkdir(parents=True)
    mask = np.zeros((20, 30), np.uint8)
    mask[2:5, 3:9] = 1
    mask[5, 9] = 1  # touches at a corner
    mask[10:12, 20:30] = 2
    mask[19, 0] = 255
    Image.new("RGB", (30, 20)).save(tmp_path / "in" / "images" / "train" / "a.png")
    Image.fromarray(mask).save(tmp_path / "in" / "masks" / "train" / "a.png")
    table = "data.classes={background: 0, cell: 1, rod: 2}"
    made = convert_data(tmp_path / "in", [table], out=tmp_path / "out", to="coco", boxes=True)
    assert made.counts == {"train": {"images": 1, "objects": 2, "crowd regions": 0}}
    split = _splits(tmp_path / "out", task="detection")["train"]
    assert split.classes.names == ("cell", "rod")
    (image,) = split.images
    assert image.objects.boxes.tolist() == [[3, 2, 10, 6], [20, 10, 30, 12]]
    assert image.objects.areas.tolist() == [19, 20]
    with pytest.raises(ConfigError, match="boxes cannot be written as masks"):
        convert_data(tmp_path / "out", out=tmp_path / "x", to="masks", task="detection")
    lossless = convert_data(tmp_path / "in", [table], out=tmp_path / "rle", to="coco")
    assert lossless.counts == {"train": {"images": 1, "classes": 3}}
    (found,) = _masks(_splits(tmp_path / "rle", task="segmentation")["train"]).values()
    assert (found[1] == mask).all()


def test_overlapping_classes_in_one_mask_are_counted_and_in_layers_kept(tmp_path):
    (tmp_path / "in" / "images" / "train").mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(tmp_path / "in" / "images" / "train" / "a.png")
    layers = {"cell": np.zeros((3, 4), np.uint8), "edge": np.zeros((3, 4), np.uint8)}
    layers["cell"][:2] = 1
    layers["edge"][1:, :2] = 1
    layers["edge"][0, 0] = 255
    for name, layer in layers.items():
        (tmp_path / "in" / "masks" / "train" / name).mkdir(parents=True)
        Image.fromarray(layer).save(tmp_path / "in" / "masks" / "train" / name / "a.png")
    overrides = ["data.multilabel=true"]
    expected = np.stack(list(layers.values()))
    for to in ("layers", "coco", "shards"):
        made = convert_data(tmp_path / "in", overrides, out=tmp_path / to, to=to)
        assert not any(findings.to_list() for findings in made.lost.values())
        ((names, mask),) = _masks(_splits(tmp_path / to, *overrides, task="segmentation")["train"]).values()
        assert names == ["cell", "edge"]
        assert (mask == expected).all()
    made = convert_data(tmp_path / "in", overrides, out=tmp_path / "masks", to="masks")
    assert {f["check"]: f["examples"][0][:8] for f in made.lost["train"].to_list()} == {
        "overlap-lost": "2 pixels",
        "partly-known": "1 pixels",
    }
    ((names, mask),) = _masks(_splits(tmp_path / "masks", task="segmentation")["train"]).values()
    assert names == ["background", "cell", "edge"]
    assert mask.tolist() == [[1, 1, 1, 1], [2, 2, 1, 1], [2, 2, 0, 0]]


def test_what_was_mended_in_reading_is_said_too(synthetic, tmp_path):
    (tmp_path / "in" / "annotations").mkdir(parents=True)
    (tmp_path / "in" / "images").symlink_to(synthetic / "images")
    content = json.loads((synthetic / "annotations" / "instances_val.json").read_text())
    content["annotations"][0]["bbox"][2] = 0
    (tmp_path / "in" / "annotations" / "instances_val.json").write_text(json.dumps(content))
    made = convert_data(tmp_path / "in", out=tmp_path / "out", to="coco")
    assert [finding.check for finding in made.mended["val"]] == ["box-without-area"]
    assert "  noticed: box-without-area 1: annotations[0]" in str(made)


def test_what_is_held_out_in_a_run_stays_in_the_training_split(synthetic, tmp_path):
    annotations = tmp_path / "in" / "annotations"
    annotations.mkdir(parents=True)
    (annotations / "instances_train.json").write_text((synthetic / "annotations" / "instances_train.json").read_text())
    (tmp_path / "in" / "images").symlink_to(synthetic / "images")
    made = convert_data(tmp_path / "in", out=tmp_path / "out", to="coco")
    assert {name: counts["images"] for name, counts in made.counts.items()} == {"train": 12}


def test_a_folder_that_holds_something_is_left_alone(synthetic, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="the place to write to is not empty"):
        convert_data(synthetic, out=tmp_path / "out", to="voc", task="detection")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_what_fails_leaves_nothing_behind(synthetic, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        (arguments[1] / "half").write_text("")
        raise DataError("disk full")

    monkeypatch.setitem(convert_data.__globals__["_BOXES"], "voc", fail)
    with pytest.raises(DataError, match="disk full"):
        convert_data(synthetic, out=tmp_path / "out", to="voc", task="detection")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_unknown_formats_are_not(synthetic, tmp_path):
    (tmp_path / "out").mkdir()
    convert_data(synthetic, out=tmp_path / "out", to="csv", task="detection")
    assert (tmp_path / "out" / "train.csv").is_file()
    with pytest.raises(ConfigError, match="there is no format 'vco'"):
        convert_data(synthetic, out=tmp_path / "other", to="vco", task="detection")


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_samples_from_shards_are_those_of_the_files(synthetic, tiny_config, tiny_segmenter_config, tmp_path, task):
    config, overrides = (tiny_config, []) if task == "detection" else (tiny_segmenter_config, [CLASSES])
    convert_data(synthetic, overrides, out=tmp_path / "out", to="shards", task=task, shard_mb=1)
    loose = SLICES[task].data(load_config(config, [f"data.root={synthetic}", *overrides]), None)
    own = ["data.classes=null"] if overrides else []  # what the values mean is written beside the shards
    shards = SLICES[task].data(load_config(config, [f"data.root={tmp_path / 'out'}", *own]), None)
    order = [list(data.train_dataloader().sampler) for data in (loose, shards)]
    assert set(order[0]) == set(order[1])
    ours, theirs = (data.train_dataloader().dataset for data in (shards, loose))
    for key in order[0]:
        a, b = ours[key], theirs[key]
        assert (a.image == b.image).all()
        if task == "detection":
            assert (a.boxes == b.boxes).all()
            assert (a.labels == b.labels).all()
        else:
            assert (a.mask == b.mask).all()


def test_a_run_on_shards_trains_and_is_evaluated(synthetic, tiny_config, tmp_path):
    convert_data(synthetic, out=tmp_path / "out", to="shards", task="detection")
    run = ds.train(tiny_config, [f"data.root={tmp_path / 'out'}", f"output={tmp_path}", "data.workers=2"])
    assert run.summary["status"] == "finished"
    scores = ds.evaluate(run.dir, split="test")
    assert scores.keys() >= {"AP", "AP50"}


def test_the_command_says_counts_and_losses(synthetic, tmp_path, capsys):
    def run(to):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", "convert", str(synthetic), str(tmp_path / "out"), "--to", to, "--task", "detection"])
        return ended.value.code or 0, *capsys.readouterr()

    code, out, _ = run("yolo")
    assert code == 0
    assert re.search(r"^train: 12 images, \d+ objects, 0 crowd regions$", out, re.M)
    assert re.search(r"^  lost: category-id-lost 4: class .disc. has the id 1, here it is 0 and 3 more$", out, re.M)
    assert f"written to {tmp_path / 'out'}; pictures are linked where possible" in out
    code, _, said = run("csv")
    assert code == 3
    assert "is not empty" in said


def test_the_result_is_plain_values(synthetic, tmp_path):
    made = convert_data(synthetic, out=tmp_path / "out", to="voc", task="detection")
    values = json.loads(json.dumps(made.to_dict()))
    assert values["splits"]["val"]["images"] == 5
    assert {finding["check"] for finding in values["lost"]["train"]} <= {
        "category-id-lost",
        "class-order-lost",
        "area-lost",
        "outline-lost",
        "annotation-id-lost",
        "image-id-lost",
    }
