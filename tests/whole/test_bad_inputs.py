"""The 42 bad inputs of the shared data, each through `data check` and through `train`, held against one table."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jaxtyping
import pytest
import yaml
from conftest import TINY, TINY_SEGMENTER
from PIL import Image

from densenet_suite import cli, train
from densenet_suite.errors import DataError
from densenet_suite.training.run import Run
from densenet_suite.verbs.data_check import check_data


@dataclass(frozen=True)
class Expected:
    """What becomes of a bad input.

    Attributes:
        errors: the ids of all errors that `data check` finds; with one, it ends with exit code 3, and so does `train`.
        refusal: what `train` says then, in parts.
        others: ids of lesser findings of `data check` that must be among them, each with its severity.
    """

    errors: tuple[str, ...] = ()
    refusal: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


def refused(check: str, *said: str) -> Expected:
    return Expected((check,), said)


def mended(check: str, severity: str = "warning") -> Expected:
    return Expected(others=((check, severity),))


ACCEPTED = Expected()
TABLE = {
    "files/ok_reference.jpg": ACCEPTED,
    "files/truncated.jpg": refused("image-damaged", "image file is damaged", "truncated.jpg"),
    "files/zero_byte.jpg": refused("image-unusable", "image file is empty", "zero_byte.jpg"),
    "files/gray16.png": refused("image-unusable", "pixels are uint16, this model takes 8 bits", "gray16.png"),
    "files/gray8.png": ACCEPTED,
    "files/gray8.jpg": ACCEPTED,
    "files/rgba.png": mended("image-transparent"),
    "files/cmyk.jpg": ACCEPTED,
    "files/one_pixel.png": mended("image-plain"),
    "files/wide_4000x16.png": mended("few-anchors"),
    "exif/images/orientation_1.jpg": ACCEPTED,
    **{f"exif/images/orientation_{i}.jpg": mended("image-turned", "note") for i in range(2, 9)},
    "exif/annotations.json": mended("image-turned", "note"),
    "seg/ok/masks/frame.png": ACCEPTED,
    "seg/size_mismatch/masks/frame.png": refused(
        "mask-size", "frame.jpg is 240x180 (width x height)", "frame.png is 220x167", "masks are never resized"
    ),
    "seg/out_of_range_id/masks/frame.png": refused(
        "mask-values", "mask holds 57 (800 pixels), of no class", "frame.png"
    ),
    "seg/rgb_mask/masks/frame.png": refused(
        "mask-coloured", "in colours where numbers are expected", "frame.png", "say which class each colour is"
    ),
    "seg/missing_mask/images/frame.jpg": refused("mask-missing", "1 image has no mask: frame.jpg"),
    "coco/ok.json": ACCEPTED,
    "coco/missing_file.json": refused("image-missing", "image file does not exist", "(images[3])"),
    "coco/duplicate_image_id.json": refused("image-id-twice", "images[3].id 885 is used twice"),
    "coco/duplicate_annotation_id.json": mended("annotation-id-twice"),
    "coco/zero_width_box.json": mended("box-without-area"),
    "coco/negative_coords.json": mended("box-clipped"),
    "coco/box_outside_image.json": mended("box-outside"),
    "coco/box_partly_outside.json": mended("box-clipped"),
    "coco/nan_coordinate.json": refused("box-not-finite", "annotations[0] (id 991).bbox is [nan, ", "NaN or infinity"),
    "coco/unknown_category_id.json": refused(
        "category-unknown", "annotations[0] (id 991).category_id 12 is not in categories"
    ),
    "coco/image_without_annotations.json": ACCEPTED,
    "coco/only_crowd.json": ACCEPTED,
    "coco/non_ascii_file_name.json": ACCEPTED,
    "coco/path_traversal.json": refused(
        "file-outside", "images[0].file_name '../outside.jpg' leads out of the image folder"
    ),
    "coco/malformed.json": refused(
        "unreadable", "is not valid JSON: Expecting ',' delimiter", "instances_train.json:1:"
    ),
    "coco/empty.json": refused("unreadable", "annotation file is empty", "instances_train.json"),
    "coco/empty_object.json": refused(
        "unreadable", "lacks the lists images, annotations, categories", "instances_train.json"
    ),
    "coco/huge_int_ids.json": ACCEPTED,
}
# of these the manifest says that evaluation must work too, or that results must carry the ids of the file
EVALUATED = {"coco/image_without_annotations.json", "coco/only_crowd.json", "coco/huge_int_ids.json"}
ANNOTATIONS = Path("annotations", "instances_train.json")
# CamVid's twelve ids, the last of which is void
STREET = {f"class {i}": i for i in range(11)}


@pytest.fixture(autouse=True)
def _without_checks_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of a step, and are made in the tests of the parts."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def bad(data_folder: Callable[[str], Path]) -> Path:
    return data_folder("bad-inputs")


def write_coco(root: Path, pictures: list[Path]) -> Path:
    """A box in the middle of each picture; the size of what cannot be opened is made up."""
    (root / "images" / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i, path in enumerate(pictures, start=1):
        shutil.copy(path, root / "images" / "train")
        try:
            with Image.open(path) as image:
                width, height = image.size
        except OSError:
            width, height = 320, 240
        images.append({"id": i, "file_name": path.name, "width": width, "height": height})
        box = [width / 4, height / 4, width / 2, height / 2]
        annotations.append({"id": i, "image_id": i, "category_id": 3, "bbox": box, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "thing"}]}
    (root / ANNOTATIONS).write_text(json.dumps(content))
    return root


def write_dataset(bad: Path, case: str, root: Path) -> Path:
    """Make a case a dataset: its annotations or masks as they are, a picture with a box in it."""
    kind, name = case.split("/", 1)
    if kind == "files":
        return write_coco(root, [bad / case])
    if kind == "seg":
        return shutil.copytree(bad / Path(case).parents[1], root)
    annotations = root / "annotations"
    annotations.mkdir(parents=True)
    shutil.copytree(bad / kind / "images", root / "images" / "train")
    if kind == "coco":
        shutil.copy(bad / kind / "outside.jpg", root / "images")  # where the path that leads out leads to
        shutil.copy(bad / case, root / ANNOTATIONS)
        if case in EVALUATED:
            shutil.copy(bad / case, annotations / "instances_val.json")
            shutil.copytree(root / "images" / "train", root / "images" / "val")
        return root
    content = json.loads((bad / "exif" / "annotations.json").read_text())
    if name.startswith("images/"):
        content["images"] = [entry for entry in content["images"] if entry["file_name"] == Path(name).name]
        ids = {entry["id"] for entry in content["images"]}
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
    (root / ANNOTATIONS).write_text(json.dumps(content))
    return root


def write_config(root: Path, case: str, folder: Path) -> Path:
    """The smallest network that trains one step on the whole of a case."""
    base = TINY_SEGMENTER if case.startswith("seg/") else TINY
    data = {"root": str(root), "workers": 0, "holdout": 0}
    if base is TINY:
        data["size"] = 64
        number = 1 if TABLE[case].errors else len(json.loads((root / ANNOTATIONS).read_text())["images"])
    else:
        data |= {"crop": 64, "classes": STREET, "ignore": [11]}
        number = 1
    settings = {"epochs": 1, "batch": number, "ema": 0, "recalibrate": 0}
    values = {**base, "output": str(folder / "runs"), "data": data, "train": settings}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_table_is_the_manifest(bad: Path) -> None:
    with open(bad / "manifest.csv", newline="", encoding="utf-8") as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == sorted(TABLE)


@pytest.mark.parametrize("case", TABLE)
def test_check_and_train_agree_on_it(bad: Path, tmp_path: Path, case: str) -> None:
    expected = TABLE[case]
    root = write_dataset(bad, case, tmp_path / "data")
    config = write_config(root, case, tmp_path)

    checked = check_data(config)
    assert {finding.check for _, finding in checked.of("error")} == set(expected.errors)
    found = {(finding.check, finding.severity) for _, finding in checked.findings}
    assert set(expected.others) <= found
    assert checked.passed() == (not expected.errors)

    if expected.errors:
        with pytest.raises(DataError) as caught:
            train(config)
        for part in expected.refusal:
            assert part in str(caught.value)
        return
    run = train(config)
    with open(run.metrics_path, newline="") as file:
        steps = list(csv.DictReader(file))
    losses = [float(step["train/loss"]) for step in steps if step["train/loss"]]
    assert losses
    assert all(map(math.isfinite, losses))
    if case in EVALUATED:
        check_evaluation(run, root)


def check_evaluation(run: Run, root: Path) -> None:
    """No score where there is nothing to find, and results with the ids of the file."""
    content = json.loads((root / ANNOTATIONS).read_text())
    scores = json.loads((run.dir / "eval" / "val" / "metrics.json").read_text())
    only_crowd = all(annotation["iscrowd"] for annotation in content["annotations"])
    assert (scores["AP"] is None) == only_crowd
    found = json.loads((run.dir / "eval" / "val" / "predictions.coco.json").read_text())
    assert found
    assert {entry["image_id"] for entry in found} <= {image["id"] for image in content["images"]}


@pytest.mark.parametrize(
    ("case", "code"), [("coco/ok.json", 0), ("coco/malformed.json", 3), ("coco/nan_coordinate.json", 3)]
)
def test_the_command_line_ends_with_3_on_errors(bad: Path, tmp_path: Path, capsys, case: str, code: int) -> None:
    config = write_config(write_dataset(bad, case, tmp_path / "data"), case, tmp_path)
    commands = [["data", "check", str(config)], ["train", str(config)]]
    for command in commands if code else commands[:1]:
        with pytest.raises(SystemExit) as ended:
            cli.main(command)
        assert (ended.value.code or 0) == code
        assert "Traceback" not in capsys.readouterr().err
