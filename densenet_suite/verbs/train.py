"""`train` and `resume`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_suite.config.load import load_config

if TYPE_CHECKING:
    from densenet_suite.training.run import Run

logger = logging.getLogger(__name__)


def train(config: str | Path, overrides: Sequence[str] = ()) -> "Run":
    """Train what a config file says, and evaluate the best weights.

    Args:
        config: a YAML file.
        overrides: changes of the form "train.epochs=10".

    Returns:
        the run, whose folder holds everything.

    Raises:
        ConfigError: with everything that is wrong with the config, before anything heavy is imported.
        DataError: the dataset is faulty.
        InterruptedRunError: a signal stopped it; `resume` goes on.
    """
    checked = load_config(config, overrides)

    from densenet_suite.training.run import Run

    return fit_run(Run.create(checked))


def resume(run: str | Path) -> "Run":
    """Continue a run that was stopped; one that is finished stays as it is.

    It goes on after the step where a signal stopped it, or else from the end of its last whole epoch.

    Args:
        run: its folder.

    Raises:
        InterruptedRunError: a signal stopped it again.
        ConfigError: the folder is none of a run, or holds no sound checkpoint.
    """
    from densenet_suite.training.run import Run

    opened = Run.open(run)
    if opened.summary.get("status") == "finished":
        with opened.logging():
            logger.info("nothing to resume: the run finished after %d epochs", opened.summary["epochs"])
        return opened
    return fit_run(opened, resume=True)


def fit_run(run: "Run", *, resume: bool = False) -> "Run":
    """Train into a run folder that stands, evaluate, and write the report."""
    from densenet_suite.report.pictures import TrainPictures
    from densenet_suite.report.run_report import report_run
    from densenet_suite.report.tasks import REPORTS
    from densenet_suite.training.fit import fit

    fit(run.config, run, resume=resume, callbacks=[TrainPictures(run.dir / "images", REPORTS[run.config.task])])
    report_run(run)
    return run
