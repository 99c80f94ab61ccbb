"""Fitting: from a config to a trained run, and from a stopped run onwards."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from densenet_suite.config.schema import Config
from densenet_suite.errors import DataError
from densenet_suite.files import write_json
from densenet_suite.findings import Findings
from densenet_suite.installed import is_installed
from densenet_suite.sampling import Stream, derive_seed
from densenet_suite.training.averaging import EvaluationWeights
from densenet_suite.training.checkpointing import BestModel, EpochCheckpoints, SafeCheckpointIO
from densenet_suite.training.console import EpochLines
from densenet_suite.training.epoch_means import EpochMeans
from densenet_suite.training.finite_loss import FiniteLoss
from densenet_suite.training.interruption import InterruptedRunError, Interruption
from densenet_suite.training.metrics_log import MetricsLog
from densenet_suite.training.run import Run
from densenet_suite.training.slice import Slice
from densenet_suite.training.slices import SLICES

logger = logging.getLogger(__name__)
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "note": logging.INFO}


class StepSeeds(L.Callback):
    """Gives every step a seed of its own.

    So dropout and drop path depend on where in the run a step is, and on nothing that came before.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the step."""
        place = (trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(derive_seed(self.seed, Stream.STEP, *place))


def fit(config: Config, run: Run, *, resume: bool = False, callbacks: Sequence[L.Callback] = ()) -> None:
    """Train into a run folder.

    Args:
        config: what to train.
        run: where to.
        resume: continue from the folder's last checkpoint.
        callbacks: of Lightning, beside the run's own.

    Raises:
        SuiteError: the data, the config or the weights do not allow it.
    """
    parts = SLICES[config.task]
    with run.logging(), quiet(), without_worker_trace():
        started = time.monotonic()
        logger.info("run folder %s", run.dir)
        data = parts.data(config, None)
        _report_data(config, data, run)
        torch.manual_seed(derive_seed(config.seed, Stream.WEIGHTS))
        task = parts.task(config, data)
        task.to(memory_format=torch.channels_last)  # convolutions run faster so, on CPUs by up to a half
        weights = EvaluationWeights(config.train.ema, config.train.recalibrate)
        best = BestModel(run.model_path, parts.monitor, _saver(config, parts), weights)
        trainer = _trainer(config, run, parts, best, [*callbacks, best, weights], validates="val" in data.splits)
        _write_summary(run, "running", best, started, trainer)
        status = "failed"
        try:
            trainer.fit(task, data, ckpt_path=run.last_checkpoint if resume else None)
            status = "finished"
        except InterruptedRunError:
            status = "interrupted"
            raise
        finally:
            _write_summary(run, status, best, started, trainer)


def _trainer(
    config: Config, run: Run, parts: Slice, best: BestModel, callbacks: list[L.Callback], *, validates: bool
) -> L.Trainer:
    train = config.train
    seeds = StepSeeds(config.seed)
    callbacks = [
        seeds,
        FiniteLoss(seeds),
        EpochMeans(),
        *callbacks,
        MetricsLog(run.metrics_path),
        EpochLines(parts.monitor, parts.losses, parts.scores),
        EpochCheckpoints(run.last_checkpoint, run.best_checkpoint, best),
        Interruption(run.dir, run.last_checkpoint),
    ]
    if train.early_stop is not None and validates:
        callbacks.append(
            EarlyStopping(
                parts.monitor,
                mode="max",
                patience=train.early_stop.patience,
                min_delta=train.early_stop.min_delta,
            )
        )
    options: dict[str, Any] = {"num_sanity_val_steps": 0, "enable_model_summary": False} | config.trainer
    if not validates:
        options["limit_val_batches"] = 0
    return L.Trainer(
        **options,
        max_epochs=train.epochs,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.clip or None,
        callbacks=callbacks,
        plugins=[SafeCheckpointIO(run.last_checkpoint, run.previous_checkpoint)],
        logger=_loggers(run),
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=run.dir,
    )


def _loggers(run: Run) -> list[Logger]:
    if is_installed("tensorboard"):
        return [TensorBoardLogger(run.dir, name="", version="tensorboard")]
    return []


def _report_data(config: Config, data: Any, run: Run) -> None:
    """Check the data as far as it costs little, and stop at errors; the pictures are left to `data check`."""
    splits = data.splits
    data.split("train")  # says what is missing where there is nothing to train on
    network = SLICES[config.task].check(config, splits, False)
    told: list[Findings] = []  # splits that were divided share theirs
    for split in splits.values():
        logger.info("%s: %s", split.name, split.describe())
        for finding in split.findings if split.findings not in told else ():
            logger.log(_LEVELS[finding.severity], "%s: %s [%s]", split.name, finding, finding.check)
        told.append(split.findings)
    write_json(run.data_report_path, {"splits": [split.report() for split in splits.values()], "network": network})
    for split in splits.values():
        split.findings.raise_errors()


def _saver(config: Config, parts: Slice) -> Callable[[Path, Any, float | None, int], None]:
    def save(path: Path, task: Any, score: float | None, epoch: int) -> None:
        provenance = {
            "config": config.model_dump(mode="json"),
            "epoch": epoch,
            "score": score,
            "monitor": parts.monitor,
        }
        parts.save(path, task, config.input_size, provenance)

    return save


def _write_summary(run: Run, status: str, best: BestModel, started: float, trainer: L.Trainer) -> None:
    if not trainer.is_global_zero:
        return
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    write_json(
        run.dir / "summary.json",
        {
            "status": status,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "monitor": best.monitor,
            "best_score": best.best,
            "best_epoch": best.best_epoch,
            "last": {
                name: value if value == value and abs(value) < float("inf") else None for name, value in metrics.items()
            },
            "seconds": round(time.monotonic() - started, 1),
            "model": "weights/best.safetensors",
        },
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says at every fit, and the warnings of its that name nothing to be done."""
    names = (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.pytorch",
    )
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    for library, _ in levels:
        library.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*number of training batches.*smaller than the logging interval.*",
            ".*treespec, LeafSpec.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*GPU available but not used.*",
            ".*in eval mode at the start of training.*",  # frozen batch norms
            ".*checkpoint that ended before the epoch ended.*",  # our sampler goes on where it was
        ):
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            for library, level in levels:
                library.setLevel(level)


@contextmanager
def without_worker_trace() -> Iterator[None]:
    """Give errors in data as they were raised: a loader's worker hands them over as the text of their traceback."""
    try:
        yield
    except DataError as error:
        text = str(error)
        if "Original Traceback" not in text:
            raise
        what, _, hint = (
            text.rpartition(f"{DataError.__module__}.{DataError.__name__}: ")[2].strip().partition("\n  hint: ")
        )
        raise DataError(what, hint=hint or None) from error
