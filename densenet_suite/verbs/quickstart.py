"""`quickstart`: the whole of it on data made here, with nothing to download."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_suite.config.load import config_from_values, dump_config
from densenet_suite.files import write_text

if TYPE_CHECKING:
    from densenet_suite.training.run import Run

logger = logging.getLogger(__name__)

_SIZE = (128, 160)
# what the quickstart trains: a D0 cut down to what two cores train in under three minutes
_CONFIG: dict[str, Any] = {
    "task": "detection",
    "name": "quickstart",
    "model": {
        "architecture": "efficientdet_d0",
        "backbone": "efficientnet(width=0.5, depth=0.5)",
        "channels": 48,
        "cells": 2,
        "repeats": 2,
        "max_level": 5,
        "anchor_scale": 2.5,
        "drop_path": 0.0,
    },
    "data": {"size": list(_SIZE)},
    "augment": {"scale": [0.7, 1.4], "vertical_flip": 0.5},
    "train": {
        "epochs": 14,
        "batch": 8,
        "optimizer": {"name": "adamw", "lr": 0.08, "weight_decay": 0.05},
        "warmup_epochs": 2,
        "ema": 0.98,
    },
    "trainer": {"accelerator": "cpu", "check_val_every_n_epoch": 2},
}
_IMAGES = {"train": 400, "val": 80, "test": 24}


def quickstart(out: str | Path = "quickstart") -> "Run":
    """Make a dataset, train a small detector on the CPU, evaluate it, predict, and write pictures and a report.

    Args:
        out: folder for the dataset, the config and the run.

    Returns:
        the run.
    """
    from densenet_suite.detection.prediction_files import save_predictions
    from densenet_suite.synthetic import write_synthetic
    from densenet_suite.training.run import Run
    from densenet_suite.verbs.predict import predict
    from densenet_suite.verbs.train import fit_run

    folder = Path(out).resolve()
    data = write_synthetic(folder / "data", _IMAGES, size=_SIZE)
    values = {**_CONFIG, "output": str(folder / "runs"), "data": {**_CONFIG["data"], "root": str(data)}}
    config = config_from_values(values, where="quickstart")
    write_text(folder / "config.yaml", dump_config(config))
    run = fit_run(Run.create(config))
    found = predict(run.dir, data / "images" / "test", score_threshold=0.4)
    for _ in save_predictions(found, run.dir / "predictions"):
        pass
    return run
