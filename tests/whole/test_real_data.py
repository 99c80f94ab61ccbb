"""Real pictures from end to end, through the command line and the shipped configs."""

import json
from pathlib import Path

import pytest
from conftest import REPOSITORY

from densenet_suite import cli, train

SMALL = ["train.epochs=1", "train.batch=4", "data.size=128", "trainer.limit_train_batches=2", "train.recalibrate=8"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.mark.parametrize(
    ("name", "images"), [("coco-official", {"train": 19, "val": 5}), ("coco-mini", {"train": 128, "val": 88})]
)
def test_a_set_is_trained_on_evaluated_and_predicted(
    data_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, images: dict[str, int]
) -> None:
    root = data_folder(name)
    config = REPOSITORY / "configs" / "detect_coco_d0.yaml"
    assert run("train", config, f"data.root={root}", f"output={tmp_path}", *SMALL, "trainer.limit_val_batches=2") == 0
    folder = tmp_path / "coco-d0-001"
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    report = json.loads((folder / "data_report.json").read_text())
    assert {split["split"]: split["images"] for split in report["splits"]} == images
    capsys.readouterr()
    assert run("evaluate", folder, "trainer.limit_val_batches=1", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["AP"] <= 1
    source = sorted((root / "images").rglob("*.jpg"))[0]
    assert run("predict", folder, source, "--out", tmp_path / "found", "--score-threshold", 0.0) == 0
    assert (tmp_path / "found" / f"{source.stem}.jpg").is_file()


@pytest.fixture
def eight_images(data_folder, tmp_path: Path) -> Path:
    """Return the first eight pictures of coco-mini that have objects, as a dataset to train and validate on."""
    root = data_folder("coco-mini")
    (annotations,) = sorted((root / "annotations").glob("instances_train*.json"))
    content = json.loads(annotations.read_text())
    with_objects = {a["image_id"] for a in content["annotations"] if not a["iscrowd"]}
    images = [image for image in content["images"] if image["id"] in with_objects][:8]
    chosen = {image["id"] for image in images}
    used = [a for a in content["annotations"] if a["image_id"] in chosen]
    names = {a["category_id"] for a in used}
    categories = [c for c in content["categories"] if c["id"] in names]
    for image in images:
        (source,) = root.rglob(image["file_name"])
        image["file_name"] = source.name
    folder = tmp_path / "eight"
    (folder / "annotations").mkdir(parents=True)
    text = json.dumps({"images": images, "annotations": used, "categories": categories})
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(text)
    (folder / "images").symlink_to(source.parent)
    return folder


def test_d0_learns_eight_real_images_by_heart(eight_images: Path, tmp_path: Path) -> None:
    config = REPOSITORY / "configs" / "detect_coco_d0.yaml"
    exact = ["augment.flip=0", "augment.scale=[1,1]", "augment.brightness=0", "augment.contrast=0"]
    exact += ["augment.saturation=0", "augment.hue=0", "model.drop_path=0", "train.ema=0"]
    schedule = ["train.epochs=120", "train.batch=8", "train.warmup_epochs=10", "train.recalibrate=8", "data.size=256"]
    schedule += ["train.optimizer.name=adamw", "train.optimizer.lr=0.03", "trainer.check_val_every_n_epoch=120"]
    run = train(config, [f"data.root={eight_images}", f"output={tmp_path}", *exact, *schedule])
    assert json.loads((run.dir / "eval" / "val" / "metrics.json").read_text())["AP50"] >= 0.9
