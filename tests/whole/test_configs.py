"""Every shipped config trains a step, saves, reloads from its run folder alone, and predicts."""

from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from densenet_suite import load, predict, train

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
SHORT = ["train.epochs=1", "train.batch=4", "train.recalibrate=8", "trainer.limit_train_batches=1"]
SMALL = "model.backbone=efficientnet(width=0.25, depth=0.25)"
# the data here have masks of five classes at the usual place, and no others
OWN_DATA = {
    "detection": ["data.size=64", "model.drop_path=0.0"],
    "segmentation": [
        "data.train=null",
        "data.val=null",
        "data.classes={background: 0, disc: 1, square: 2, triangle: 3, star: 4}",
        "data.ignore=[]",
        "loss.class_weights=null",
        "data.crop=64",
        "data.crops_per_image=1",
    ],
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_trains_saves_reloads_and_predicts(path: Path, synthetic: Path, tmp_path: Path) -> None:
    task = "detection" if path.stem.startswith("detect") else "segmentation"
    run = train(path, [f"data.root={synthetic}", f"output={tmp_path}", SMALL, *SHORT, *OWN_DATA[task]])
    assert run.summary["steps"] == 1
    moved = run.dir.rename(tmp_path / "moved")
    model = load(moved)
    assert not model.training
    found = list(predict(moved, synthetic / "images" / "test"))
    assert len(found) == 3
    for prediction in found:
        if task == "detection":
            assert np.isfinite(prediction.boxes).all()
        else:
            assert prediction.mask.shape == (64, 96)
            assert set(np.unique(prediction.mask)) <= set(range(5))
