"""Several runs, one after the other in the same processes: to start them costs more than to train.

    python two_processes.py OUTPUT CONFIG...

trains each config with batch norms that are frozen, as those of the CPU see the images of their own process only, and
the last one through the command line as it is. A launcher starts it, as one process of several.
"""

import sys
from pathlib import Path

from densenet_suite.cli import main
from densenet_suite.config.load import load_config
from densenet_suite.training.fit import fit
from densenet_suite.training.run import Run

# 24 steps of 2 images; adamw makes much of what is nearly nothing
FIXED = ["train.epochs=4", "trainer.check_val_every_n_epoch=4", "train.freeze=['*norm*']", "model.drop_path=0.0"]
FIXED += ["train.ema=0.0", "train.recalibrate=0", "train.optimizer.name=sgd", "train.optimizer.lr=0.08"]


def train_each(output: str, *configs: str) -> None:
    for config in configs:
        own = ["train.batch=1", "trainer.strategy=ddp_find_unused_parameters_true"]
        checked = load_config(config, [*FIXED, *own, f"output={output}", f"name=two-{Path(config).parent.name}"])
        fit(checked, Run.create(checked))
    main(["train", configs[-1], "train.batch=2", "train.epochs=2", f"output={output}", "name=whole"])


if __name__ == "__main__":
    train_each(*sys.argv[1:])
