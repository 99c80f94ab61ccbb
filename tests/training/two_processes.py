"""Several runs of two processes, one after the other in the same two: to start them costs more than to train.

    python two_processes.py OUTPUT CONFIG...

trains each config with batch norms that are frozen, as those of the CPU see the images of their own process only, and
the last one through the command line as it is. Lightning starts the second process, with this file, at the first.
"""

import os
import sys
import time
from pathlib import Path

from densenet_suite.cli import main
from densenet_suite.config.load import load_config
from densenet_suite.training.fit import fit
from densenet_suite.training.run import Run

# 9 steps of 4 images; adamw makes much of what is nearly nothing
FIXED = ["train.epochs=3", "trainer.check_val_every_n_epoch=3", "train.freeze=['*norm*']", "model.drop_path=0.0"]
FIXED += ["train.ema=0.0", "train.recalibrate=0", "train.optimizer.name=sgd", "train.optimizer.lr=0.3"]
TWO = ["train.batch=2", "trainer.devices=2"]


def train_twice(output: str, *configs: str) -> None:
    for config in configs:
        name = f"two-{Path(config).parent.name}"
        _expect(Path(output, f"{name}-001"))
        options = [*FIXED, *TWO, f"output={output}", f"name={name}"]
        checked = load_config(config, [*options, "trainer.strategy=ddp_find_unused_parameters_true"])
        fit(checked, Run.create(checked))
    _expect(Path(output, "whole-001"))
    main(["train", configs[-1], *TWO, "trainer.strategy=ddp", "train.epochs=2", f"output={output}", "name=whole"])


def _expect(folder: Path) -> None:
    """Tell the second process, which Lightning has started with the folder of the first run, of another one."""
    if os.environ.get("LOCAL_RANK") == "1":
        while not (folder / "config.yaml").is_file():
            time.sleep(0.05)
        os.environ["DENSENET_SUITE_RUN"] = str(folder)


if __name__ == "__main__":
    train_twice(*sys.argv[1:])
