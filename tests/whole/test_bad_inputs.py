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

from densenet_suite import train
from densenet_suite.errors import SuiteError


@dataclass(frozen=True)
class Expected:
    """What becomes of a bad input.

    Attributes:
        found: the ids that `data check` gives, errors in capitals; other notes may stand beside them.
        refused: what `train` says when it stops with exit code 3; None where it trains.
    """

    found: tuple[str, ...] = ()
    refused: tuple[str, ...] | None = None


EXIF = {f"exif/images/orientation_{i}.jpg": Expected() for i in range(1, 9)}
TABLE = {
    "files/ok_reference.jpg": Expected(),
    "files/truncated.jpg": Expected(("IMAGE-UNUSABLE",), ("image file is damaged", "truncated.jpg")),
    "files/zero_byte.jpg": Expected(("IMAGE-UNUSABLE",), ("image file is empty", "zero_byte.jpg")),
    "files/gray16.png": Expected(("IMAGE-UNUSABLE",), ("pixels are uint16, this model takes 8 bits", "gray16.png")),
    "files/gray8.png": Expected(),
    "files/gray8.jpg": Expected(),
    "files/rgba.png": Expected(),
    "files/cmyk.jpg": Expected(),
    "files/one_pixel.png": Expected(),
    "files/wide_4000x16.png": Expected(),
    **EXIF,
    "exif/annotations.json": Expected(),
    "seg/ok/masks/frame.png": Expected(),
    "seg/size_mismatch/masks/frame.png": Expected(
        ("MASK-SIZE",), ("frame.jpg is 240x180 (width x height)", "frame.png is ", "masks are never resized")
    ),
    "seg/out_of_range_id/masks/frame.png": Expected(
        ("MASK-VALUES",), ("mask holds 57 (", " pixels), of no class", "frame.png")
    ),
    "seg/rgb_mask/masks/frame.png": Expected(
        ("MASK-COLOURED",), ("in colours where numbers are expected", "frame.png", "say which class each colour is")
    ),
    "seg/missing_mask/images/frame.jpg": Expected(("MASK-MISSING",), ("1 image has no mask: frame.jpg",)),
    "coco/ok.json": Expected(),
    "coco/missing_file.json": Expected(("IMAGE-MISSING",), ("image file does not exist", "(images[")),
    "coco/duplicate_image_id.json": Expected(("IMAGE-ID-TWICE",), ("images[3].id 885 is used twice",)),
    "coco/duplicate_annotation_id.json": Expected(("annotation-id-twice",)),
    "coco/zero_width_box.json": Expected(("box-without-area",)),
    "coco/negative_coords.json": Expected(("box-clipped",)),
    "coco/box_outside_image.json": Expected(("box-outside",)),
    "coco/box_partly_outside.json": Expected(("box-clipped",)),
    "coco/nan_coordinate.json": Expected(("BOX-NOT-FINITE",), ("annotations[0] (id 991).bbox is [nan, ", "NaN")),
    "coco/unknown_category_id.json": Expected(
        ("CATEGORY-UNKNOWN",), ("annotations[0] (id 991).category_id 12 is not in categories",)
    ),
    "coco/image_without_annotations.json": Expected(),
    "coco/only_crowd.json": Expected(),
    "coco/non_ascii_file_name.json": Expected(),
    "coco/path_traversal.json": Expected(
        ("FILE-OUTSIDE",), ("images[0].file_name '../outside.jpg' leads out of the image folder",)
    ),
    "coco/malformed.json": Expected(("ANNOTATION-FILE",), ("not valid JSON", "instances_train.json:")),
    "coco/empty.json": Expected(("ANNOTATION-FILE",), ("annotation file is empty", "instances_train.json")),
    "coco/empty_object.json": Expected(
        ("ANNOTATION-FILE",), ("lacks the lists images, annotations, categories", "instances_train.json")
    ),
    "coco/huge_int_ids.json": Expected(),
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
        number = 1 if TABLE[case].refused else len(json.loads((root / ANNOTATIONS).read_text())["images"])
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
def test_train_refuses_it_by_name_or_learns_from_it(bad: Path, tmp_path: Path, case: str) -> None:
    root = write_dataset(bad, case, tmp_path / "data")
    config = write_config(root, case, tmp_path)
    refused = TABLE[case].refused
    if refused is not None:
        with pytest.raises(SuiteError) as caught:
            train(config)
        assert caught.value.exit_code == 3
        for part in refused:
            assert part in str(caught.value)
        return
    run = train(config)
    with open(run.metrics_path, newline="") as file:
        steps = list(csv.DictReader(file))
    assert len(steps) >= 1
    assert all(math.isfinite(float(step["train/loss"])) for step in steps if step["train/loss"])
