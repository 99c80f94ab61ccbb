"""A detector learns: from scratch, through the whole of it, until it knows its pictures by heart."""

import shutil
from pathlib import Path

from densenet_suite import evaluate, train
from densenet_suite.synthetic import write_synthetic


def test_a_small_detector_learns_eight_pictures_by_heart(tiny_config: Path, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data", {"train": 8}, size=(96, 128), seed=3)
    shutil.copy(data / "annotations" / "instances_train.json", data / "annotations" / "instances_val.json")
    (data / "images" / "val").symlink_to(data / "images" / "train")
    exact = ["augment.flip=0", "augment.scale=[1,1]", "augment.brightness=0", "augment.contrast=0"]
    exact += ["augment.saturation=0", "augment.hue=0", "model.drop_path=0", "train.ema=0", "train.recalibrate=8"]
    network = ["model.channels=32", "model.backbone=efficientnet(width=0.5, depth=0.5)", "model.anchor_scale=2.5"]
    schedule = ["train.epochs=120", "train.batch=8", "train.warmup_epochs=10", "trainer.check_val_every_n_epoch=120"]
    schedule += ["train.optimizer.name=adamw", "train.optimizer.lr=0.03", "data.size=[96,128]"]
    run = train(tiny_config, [f"output={tmp_path}", f"data.root={data}", *exact, *network, *schedule])
    scores = evaluate(run.dir)
    assert scores["AP50"] is not None
    assert scores["AP50"] >= 0.9
