"""`data check`: planted faults are found completely, sound sets give nothing, and real ones what their READMEs say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from planted import BOX_FAULTS, MASK_FAULTS, plant_box_faults, plant_mask_faults
from scenes import write_coco

from densenet_suite import DataCheck, check_data, cli
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.synthetic import MASK_CLASSES, write_synthetic
from densenet_suite.verbs.data_convert import convert_data

TASKS = {
    "detection": ["data.size=384"],
    "segmentation": ["data.crop=128", f"data.classes={json.dumps(MASK_CLASSES)}"],
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("sound"), {"train": 24, "val": 6, "test": 3}, size=(128, 192))


@pytest.fixture(scope="module")
def faulty_boxes(sound, tmp_path_factory) -> DataCheck:
    root = tmp_path_factory.mktemp("boxes") / "set"
    shutil.copytree(sound, root)
    plant_box_faults(root)
    return check_data(root, TASKS["detection"], task="detection")


@pytest.fixture(scope="module")
def faulty_masks(sound, tmp_path_factory) -> DataCheck:
    root = tmp_path_factory.mktemp("masks") / "set"
    shutil.copytree(sound, root)
    classes = json.dumps(plant_mask_faults(root))
    overrides = ["data.scale=0.25", "data.crop=32", f"data.classes={classes}"]
    return check_data(root, overrides, task="segmentation")


def found(check: DataCheck) -> set[tuple[str, str]]:
    return {(split, finding.check) for split, finding in check.findings}


@pytest.mark.parametrize("fault", BOX_FAULTS)
def test_each_fault_of_boxes_is_found(faulty_boxes, fault):
    assert BOX_FAULTS[fault] in found(faulty_boxes)


@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_each_fault_of_masks_is_found(faulty_masks, fault):
    assert MASK_FAULTS[fault] in found(faulty_masks)


def test_shards_are_held_against_their_checksums(sound, tmp_path):
    convert_data(sound, TASKS["detection"], out=tmp_path / "set", to="shards", task="detection")
    assert not check_data(tmp_path / "set", TASKS["detection"]).of("error")
    shard = tmp_path / "set" / "shards" / "val-000000.tar"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1  # in the header of a member, of which the index has all that is needed
    shard.write_bytes(content)
    assert ("val", "shard-changed") in found(check_data(tmp_path / "set", TASKS["detection"]))
    assert ("val", "shard-changed") not in found(check_data(tmp_path / "set", TASKS["detection"], fast=True))


@pytest.mark.parametrize("task", TASKS)
def test_a_sound_set_gives_nothing(sound, task):
    check = check_data(sound, TASKS[task], task=task)
    assert check.findings == ()
    assert check.passed(strict=True)
    assert "no problem found" in str(check)


def test_every_finding_says_where_it_is(faulty_boxes, faulty_masks):
    for check in (faulty_boxes, faulty_masks):
        for _, finding in check.findings:
            assert finding.count >= 1
            assert finding.examples


def test_errors_stand_first_and_their_sum_last(faulty_boxes):
    lines = str(faulty_boxes).splitlines()
    places = [lines.index(title) for title in ("errors", "warnings", "notes")]
    assert places == sorted(places)
    assert lines[-1].startswith(f"{len(faulty_boxes.of('error'))} errors, ")
    assert any("many-objects  train  1" in line for line in lines)


def test_the_table_shows_the_first_places_of_a_kind_and_counts_the_rest(tmp_path):
    boxes = [{"bbox": [10 + i, 10, 0, 5]} for i in range(5)] + [{"bbox": [10, 10, 40, 40]}]
    root = write_coco(tmp_path, [((64, 64), boxes)])
    text = str(check_data(root, ["data.size=64", "data.holdout=0"], task="detection", fast=True))
    assert text.count("has no area and is dropped") == 3
    assert "box-without-area  train  5" in text
    assert "    and 2 more" in text


def test_it_is_taken_for_what_it_is_with_the_reason(sound):
    text = str(check_data(sound, task="detection", fast=True))
    assert "detection (as told)" in text
    assert f"COCO, as there is {sound / 'annotations' / 'instances_train.json'}" in text
    assert "33 images decoded: --fast" in text


@pytest.mark.parametrize(
    ("place", "check"),
    [("malformed", "unreadable"), ("empty", "unreadable"), ("path_traversal", "file-outside")],
)
def test_what_cannot_be_read_is_a_finding(data_folder, place, check):
    root = data_folder("bad-inputs") / "coco"
    overrides = [f"data.train.annotations={place}.json", "data.train.images=images"]
    checked = check_data(root, overrides, task="detection")
    assert ("train", check) in found(checked)
    assert not checked.passed()


def test_a_folder_that_is_no_dataset_is_a_finding(tmp_path):
    check = check_data(tmp_path)
    assert found(check) == {("dataset", "layout")}
    assert "nothing in the folder is known" in str(check)


def test_a_wrong_config_is_no_finding(sound):
    with pytest.raises(ConfigError, match="siez"):
        check_data(sound, ["data.siez=3"], task="detection")


def test_a_set_without_training_split_is_told(tmp_path):
    root = write_coco(tmp_path, [((64, 64), [{"bbox": [10, 10, 40, 40]}])], split="val")
    assert ("dataset", "no-train-split") in found(check_data(root, task="detection", fast=True))


def test_held_out_images_are_held_against_the_others(tmp_path):
    pictures = [((64, 64), [{"bbox": [10, 10, 40, 40]}])] * 12
    root = write_coco(tmp_path, pictures)
    for number in range(2, 13):
        shutil.copy(root / "images" / "train" / "1.png", root / "images" / "train" / f"{number}.png")
    assert ("val", "image-in-two-splits") not in found(check_data(root, task="detection"))
    assert ("train", "image-in-two-splits") in found(check_data(root, task="detection"))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.mark.parametrize(("box", "options", "code"), [(0, [], 0), (0, ["--strict"], 3), (-5, [], 3)])
def test_the_exit_code_is_3_on_errors_and_if_strict_on_warnings(tmp_path, capsys, box, options, code):
    root = write_coco(tmp_path, [((64, 64), [{"bbox": [10, 10, box, 5]}, {"bbox": [10, 10, 40, 40]}])])
    assert run("data", "check", root, "data.size=64", "--task", "detection", "--fast", *options) == code


def test_json_is_one_document_on_standard_output(tmp_path, capsys):
    root = write_coco(tmp_path, [((64, 64), [{"bbox": [10, 10, 0, 5]}, {"bbox": [10, 10, 40, 40]}])])
    run("data", "check", root, "data.size=64", "--task", "detection", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["task"] == "detection"
    assert said["errors"] == 0
    (entry,) = [entry for entry in said["findings"] if entry["check"] == "box-without-area"]
    assert entry.keys() == {"split", "check", "severity", "count", "examples", "hint"}
    assert said["splits"]["train"]["objects"] == 1
    assert said["network"]["size"] == [64, 64]
    assert said["images"] == {"images": 1, "decoded": 1}


def test_training_stops_where_axes_are_swapped_and_says_so_in_its_report(tiny_config, tmp_path):
    from densenet_suite import train

    boxes = [{"bbox": [5 + i, 20, 3, 50]} for i in range(6)]  # y, x, height, width
    root = write_coco(tmp_path / "data", [((40, 100), boxes)] * 4)
    with pytest.raises(DataError, match=r"leave their picture, and fit with x and y exchanged"):
        train(tiny_config, [f"data.root={root}", f"output={tmp_path}"])
    report = json.loads((tmp_path / "tiny-001" / "data_report.json").read_text())
    assert "boxes-swapped" in {finding["check"] for finding in report["splits"][0]["findings"]}


def test_training_reports_what_the_network_will_see(trained_run, trained_segmenter_run):
    report = json.loads((trained_run.dir / "data_report.json").read_text())
    assert report["network"]["size"] == [64, 96]
    assert report["network"]["objects"] == report["splits"][0]["objects"]
    report = json.loads((trained_segmenter_run.dir / "data_report.json").read_text())
    assert sum(report["network"]["class_shares"].values()) == pytest.approx(1, abs=1e-5)


# what the READMEs of the real sets say


def test_bccd_has_two_boxes_without_area_and_six_double_boxes(data_folder):
    overrides = [
        f"data.{split}.{key}={value}"
        for split in ("train", "val")
        for key, value in (
            ("annotations", f"annotations/instances_{split}_unfiltered.json"),
            ("images", f"images/{split}"),
        )
    ]
    check = check_data(data_folder("bccd"), ["data.size=128", *overrides], task="detection", fast=True)
    assert check.of("error") == []
    counts = {(split, finding.check): finding.count for split, finding in check.findings}
    assert counts["train", "box-without-area"] + counts["val", "box-without-area"] == 2
    assert counts["train", "box-double"] + counts["val", "box-double"] == 6


def test_dsb2018_has_images_of_more_than_100_objects(data_folder):
    root = data_folder("dsb2018-nuclei")
    check = check_data(root, ["data.size=128"], task="detection", fast=True)
    assert check.of("error") == []
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    counts = np.unique([annotation["image_id"] for annotation in content["annotations"]], return_counts=True)[1]
    (many,) = [finding for split, finding in check.findings if (split, finding.check) == ("train", "many-objects")]
    assert many.count == (counts > 100).sum()
    assert "313 objects" in " ".join(many.examples)


def test_dubai_has_palettes_and_a_colour_that_nobody_documents(data_folder):
    root = data_folder("dubai-aerial")
    config = REPOSITORY / "configs" / "segment_landcover.yaml"
    check = check_data(config, [f"data.root={root}", "data.ignore=[]"], fast=True)
    by_check = {(split, finding.check): finding for split, finding in check.findings}
    assert "#000000" in by_check["train", "mask-values"].examples[0]
    assert sum(by_check[split, "mask-palette"].count for split in ("train", "val")) == 18  # as its README says


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("coco-mini", ["data.size=128"]),
        ("bccd", ["data.size=128"]),
        ("isbi-em", []),
        ("dsb2018-nuclei", ["data.crop=128"]),
    ],
)
def test_real_sets_have_no_errors(data_folder, name, overrides):
    task = "detection" if "data.size=128" in overrides else "segmentation"
    check = check_data(data_folder(name), overrides, task=task)
    assert check.of("error") == []
    assert check.images["decoded"] == check.images["images"] > 0
