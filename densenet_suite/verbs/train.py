"""`train` and `resume`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_suite.config.load import load_config, save_config
from densenet_suite.errors import ConfigError

if TYPE_CHECKING:
    from densenet_suite.config.schema import Config
    from densenet_suite.training.run import Run

logger = logging.getLogger(__name__)

_LAUNCHERS = ("local", "ray")

# what may be another than before in a run that goes on: none of it decides what is learned, but for its length
_CHANGEABLE = (
    "train.epochs",
    "train.early_stop",
    "train.save_minutes",
    "train.unsaved_checkpoints",
    "train.skip_nonfinite",
    "train.hang_minutes",
    "data.root",
    "data.workers",
    "trainer.",
)


def train(config: str | Path, overrides: Sequence[str] = (), *, launcher: str = "local") -> "Run":
    """Train what a config file says, and evaluate the best weights.

    Args:
        config: a YAML file.
        overrides: changes of the form "train.epochs=10".
        launcher: local, or ray for the workers of a Ray cluster.

    Returns:
        the run, whose folder holds everything.

    Raises:
        ConfigError: with everything that is wrong with the config, before anything heavy is imported.
        DataError: the dataset is faulty.
        InterruptedRunError: a signal stopped it; `resume` goes on.
        MissingExtraError: the launcher is not installed.
    """
    checked = load_config(config, overrides)
    _check_launcher(launcher, checked)

    from densenet_suite.training.run import Run

    return fit_run(Run.create(checked), launcher=launcher)


def resume(run: str | Path, overrides: Sequence[str] = (), *, launcher: str = "local") -> "Run":
    """Continue a run that was stopped; one that is finished stays as it is, unless it is given more epochs.

    It goes on after the step where a signal stopped it, or else from its last checkpoint.

    Args:
        run: its folder.
        overrides: changes of what does not decide what is learned, such as "data.workers=4", and "train.epochs=100":
            the learning rate then goes on along the schedule of a run of that length.
        launcher: local, or ray for the workers of a Ray cluster; it need not be the one of before.

    Raises:
        InterruptedRunError: a signal stopped it again.
        ConfigError: the folder is none of a run, it holds no sound checkpoint, or a change would make it another run.
    """
    from densenet_suite.training.run import Run

    opened = Run.open(run)
    summary = opened.summary
    with opened.logging():
        if overrides:
            _change(opened, overrides, int(summary.get("epochs", 0)))
        if summary.get("status") == "finished" and opened.config.train.epochs <= summary["epochs"]:
            logger.info("nothing to resume: the run finished after %d epochs", summary["epochs"])
            return opened
    _check_launcher(launcher, opened.config)
    return fit_run(opened, resume=True, launcher=launcher)


def _check_launcher(launcher: str, config: "Config") -> None:
    """Find out what a launcher does not allow before there is a run folder.

    Raises:
        ConfigError: it is not known, or the config does not fit it.
        MissingExtraError: it is not installed.
    """
    if launcher not in _LAUNCHERS:
        raise ConfigError(f"there is no launcher {launcher!r}", hint=f"one of {', '.join(_LAUNCHERS)}")
    if launcher == "ray":
        from densenet_suite.training.ray_launcher import Workers

        Workers.of(config)


def _change(run: "Run", overrides: Sequence[str], done: int) -> None:
    """Write the changed config into the run folder.

    Raises:
        ConfigError: a key that is no business of a resume, or fewer epochs than are done.
    """
    former, config = run.config, load_config(run.config_path, overrides)
    old, new = _flat(former.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    refused = [key for key in changed if not key.startswith(_CHANGEABLE)]
    if refused:
        raise ConfigError(
            f"a run that goes on is the same run: {', '.join(refused)} cannot be changed",
            where=str(run.dir),
            hint=f"a new one can start from its weights: train {run.config_path} model.weights={run.dir} ...",
        )
    if config.train.epochs < done:
        raise ConfigError(f"train.epochs={config.train.epochs}, and {done} are done", where=str(run.dir))
    for key in changed:
        logger.info("resumed with %s=%s (was %s)", key, new.get(key), old.get(key))
    if config.train.epochs != former.train.epochs:
        logger.info(
            "the learning rate goes on along the cosine of a run of %d epochs, %.0f %% of which are done; "
            "it was on that of %d",
            config.train.epochs,
            100 * done / config.train.epochs,
            former.train.epochs,
        )
    save_config(config, run.config_path)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def fit_run(run: "Run", *, resume: bool = False, launcher: str = "local") -> "Run":
    """Train into a run folder that stands, evaluate, and write the report."""
    from densenet_suite.report.pictures import TrainPictures
    from densenet_suite.report.run_report import report_run
    from densenet_suite.report.tasks import REPORTS
    from densenet_suite.training.fit import fit

    callbacks = [TrainPictures(run.dir / "images", REPORTS[run.config.task])]
    if launcher == "ray":
        from densenet_suite.training.ray_launcher import fit_on_ray

        fit_on_ray(run, resume=resume, callbacks=callbacks)
    else:
        fit(run.config, run, resume=resume, callbacks=callbacks)
    report_run(run, alone=launcher == "ray")
    return run
