"""A detector learns: from scratch, through the whole of it, until it knows its pictures by heart."""

import json
import shutil
from pathlib import Path

import pytest

from densenet_suite import evaluate, train
from densenet_suite.synthetic import write_synthetic

COPIES = 20


def test_a_small_detector_learns_eight_pictures_by_heart(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_synthetic(tmp_path / "data", {"train": 8}, size=(64, 96), seed=3)
    shutil.copy(data / "annotations" / "instances_train.json", data / "annotations" / "instances_val.json")
    shutil.copytree(data / "images" / "train", data / "images" / "val")
    repeat(data)
    exact = ["augment.flip=0", "augment.scale=[1,1]", "augment.brightness=0", "augment.contrast=0"]
    exact += ["augment.saturation=0", "augment.hue=0", "model.drop_path=0", "train.ema=0", "train.recalibrate=8"]
    network = ["model.channels=32", "model.backbone=efficientnet(width=0.5, depth=0.5)", "model.anchor_scale=2.5"]
    schedule = ["train.epochs=6", "train.batch=8", "train.warmup_epochs=0.5", "trainer.check_val_every_n_epoch=6"]
    schedule += ["train.optimizer.name=adamw", "train.optimizer.lr=0.03", "data.size=[64,96]"]
    run = train(tiny_config, [f"output={tmp_path}", f"data.root={data}", *exact, *network, *schedule])
    assert run.summary["steps"] == 6 * COPIES
    scores = evaluate(run.dir)
    assert scores["AP50"] is not None
    assert scores["AP50"] >= 0.9


def repeat(data: Path) -> None:
    """Have every picture several times in an epoch, for at its end a checkpoint is written."""
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    images, annotations = content["images"], content["annotations"]
    content["images"], content["annotations"] = [], []
    for copy in range(COPIES):
        for image in images:
            name = f"{copy}-{image['file_name']}"
            (data / "images" / "train" / name).hardlink_to(data / "images" / "train" / image["file_name"])
            content["images"].append({**image, "id": image["id"] + 100 * copy, "file_name": name})
        for entry in annotations:
            moved = {"id": entry["id"] + 1000 * copy, "image_id": entry["image_id"] + 100 * copy}
            content["annotations"].append({**entry, **moved})
    file.write_text(json.dumps(content))
