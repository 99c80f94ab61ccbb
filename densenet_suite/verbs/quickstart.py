"""`quickstart`: both tasks from end to end on data made here, with nothing to download."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_suite.config.load import config_from_values, dump_config
from densenet_suite.files import write_text
from densenet_suite.synthetic import MASK_CLASSES, write_synthetic

if TYPE_CHECKING:
    from densenet_suite.training.run import Run

_SIZE = (128, 160)
_BACKBONE = "efficientnet(width=0.5, depth=0.5)"
# what the quickstart trains: a D0 and a U-Net cut down to what two cores train in minutes
_CONFIGS: dict[str, dict[str, Any]] = {
    "detection": {
        "task": "detection",
        "name": "quickstart-detect",
        "model": {
            "architecture": "efficientdet_d0",
            "backbone": _BACKBONE,
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
    },
    "segmentation": {
        "task": "segmentation",
        "name": "quickstart-segment",
        "model": {"decoder": "unet", "backbone": _BACKBONE, "drop_path": 0.0},
        "data": {
            "crop": 128,
            # every shape is one class: which of them it is, a network this small does not learn in two minutes
            "classes": {"background": 0, "shape": [value for value in MASK_CLASSES.values() if value]},
        },
        "augment": {"scale": [0.7, 1.4], "vertical_flip": 0.5},
        "train": {
            "epochs": 8,
            "batch": 8,
            "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.05},
            "warmup_epochs": 1,
            "ema": 0.98,
        },
        "trainer": {"accelerator": "cpu", "check_val_every_n_epoch": 2},
    },
}
_IMAGES = {"train": 400, "val": 80, "test": 24}


def quickstart(out: str | Path = "quickstart") -> "tuple[Run, Run]":
    """Make a dataset with boxes and masks, train a small detector and a small segmenter on it, and use both.

    Each is trained on the CPU, evaluated, and predicts; pictures and a report lie in its run folder.

    Args:
        out: folder for the dataset, the configs and the runs.

    Returns:
        the two runs.
    """
    folder = Path(out).resolve()
    data = write_synthetic(folder / "data", _IMAGES, size=_SIZE)
    return _run(folder, data, "detection"), _run(folder, data, "segmentation")


def _run(folder: Path, data: Path, task: str) -> "Run":
    from densenet_suite.training.run import Run
    from densenet_suite.verbs.predict import predict, save_results
    from densenet_suite.verbs.train import fit_run

    values = _CONFIGS[task]
    values = {**values, "output": str(folder / "runs"), "data": {**values["data"], "root": str(data)}}
    config = config_from_values(values, where="quickstart")
    write_text(folder / f"{task}.yaml", dump_config(config))
    run = fit_run(Run.create(config))
    found = predict(run.dir, data / "images" / "test")
    for _ in save_results(run.dir, found, run.dir / "predictions"):
        pass
    return run
