"""Fitting: from a config to a trained run, and from a stopped run onwards."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger

from densenet_suite.config.load import save_config
from densenet_suite.config.schema import Config
from densenet_suite.files import remove_leftovers, write_json
from densenet_suite.installed import is_installed
from densenet_suite.loading import Loader, plain_worker_errors
from densenet_suite.processes import is_first_process
from densenet_suite.sampling import Stream, derive_seed
from densenet_suite.task import Task
from densenet_suite.training.averaging import EvaluationWeights
from densenet_suite.training.batch_size import choose_batch
from densenet_suite.training.checkpointing import BestModel, Checkpoints, SafeCheckpointIO
from densenet_suite.training.console import EpochLines
from densenet_suite.training.data_report import DataReport
from densenet_suite.training.faults import Faults, Storage
from densenet_suite.training.finite_steps import FiniteSteps
from densenet_suite.training.interruption import InterruptedRunError, Interruption, StopNow
from densenet_suite.training.launch import plain_process_errors, trainer_options
from densenet_suite.training.memory import smaller_batch
from densenet_suite.training.metrics_log import MetricsLog, read_metrics
from densenet_suite.training.run import Run
from densenet_suite.training.slice import Slice
from densenet_suite.training.slices import SLICES
from densenet_suite.training.tensorboard import OptionalTensorBoard
from densenet_suite.training.watchdog import Watchdog

logger = logging.getLogger(__name__)


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
        seed = derive_seed(self.seed, Stream.STEP, *place)
        # torch.manual_seed writes down who called it for each kind of device, which takes longer than the rest
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)


def fit(
    config: Config,
    run: Run,
    *,
    resume: bool = False,
    callbacks: Sequence[L.Callback] = (),
    placement: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Train into a run folder.

    Args:
        config: what to train.
        run: where to.
        resume: continue from the folder's last checkpoint.
        callbacks: of Lightning, beside the run's own.
        placement: makes the arguments of the Trainer that a launcher decides, in the place of the config's.

    Raises:
        SuiteError: the data, the config or the weights do not allow it.
        InterruptedRunError: a signal stopped it.
    """
    interruption = Interruption(run.dir, run.last_checkpoint)
    with run.logging(), quiet(), plain_worker_errors(), interruption:
        logger.info("run folder %s", run.dir)
        if is_first_process():
            remove_leftovers(run.dir)
        faults = Faults(run.summary.get("faults") if resume else None)
        while True:
            try:
                return _fit(config, run, faults, interruption, callbacks, placement, resume=resume)
            except Exception as error:
                config = smaller_batch(run.config, error)  # as it is written, where the batch was left to be chosen
                faults.note("out_of_memory", _new_batch(config))
                save_config(config, run.config_path)
                resume = True


def _fit(
    config: Config,
    run: Run,
    faults: Faults,
    interruption: Interruption,
    callbacks: Sequence[L.Callback],
    placement: Callable[[], Mapping[str, Any]],
    *,
    resume: bool,
) -> None:
    parts = SLICES[config.task]
    data = parts.data(config, None)
    report = DataReport(data, run.data_report_path, lambda splits: parts.check(config, splits, False))
    report.write()
    torch.manual_seed(derive_seed(config.seed, Stream.WEIGHTS))
    task = parts.task(config, data)
    task.to(memory_format=torch.channels_last)  # convolutions run faster so, on CPUs by up to a half
    if config.train.batch == "auto":
        config = choose_batch(config, task, data, run.config_path)
        data.batch = config.train.batch_size
    state = _State(run, config, parts, faults, interruption)
    trainer = _trainer(state, task, [*callbacks, report], placement(), validates="val" in data.splits)
    state.write_summary("running", trainer)
    status, reason = "failed", None
    try:
        with plain_process_errors():
            trainer.fit(task, data, ckpt_path=_start(run) if resume else None)
        status = "finished"
    except (InterruptedRunError, StopNow):
        status = "interrupted"
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise
    finally:
        for loader in (trainer.train_dataloader, trainer.val_dataloaders):
            if isinstance(loader, Loader):
                loader.dismiss_workers()
        state.write_summary(status, trainer, reason)


def _start(run: Run) -> Path | None:
    """Return the checkpoint to go on from; none where a run ended before its first, in its first epoch."""
    there = run.last_checkpoint.exists() or run.previous_checkpoint.exists()
    if there or (run.metrics_path.exists() and len(read_metrics(run.metrics_path)) > 1):
        return run.last_checkpoint
    logger.info("there is no checkpoint yet: training starts at the beginning")
    return None


def _new_batch(config: Config) -> str:
    batch, accumulate = config.train.batch_size, config.train.accumulate
    return (
        f"a step ran out of memory; the run goes on from its last checkpoint with train.batch={batch} "
        f"train.accumulate={accumulate}: the same images to a step, though batch norm sees fewer at a time"
    )


class _State:
    """What a run keeps beside its network: what is best, what went wrong, and where both are written down."""

    def __init__(self, run: Run, config: Config, parts: Slice, faults: Faults, interruption: Interruption):
        self.run, self.config, self.parts, self.faults = run, config, parts, faults
        self.interruption = interruption
        train = config.train
        self.storage = Storage(run.dir, train.unsaved_checkpoints, faults)
        self.weights = EvaluationWeights(train.ema, train.recalibrate)
        self.best = BestModel(run.model_path, parts.monitor, _saver(config, parts), self.weights, self.storage)
        self.started = time.monotonic()

    def write_summary(self, status: str, trainer: L.Trainer, reason: str | None = None) -> None:
        """Write `summary.json`."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        with self.storage.side_file("summary.json"):
            write_json(
                self.run.dir / "summary.json",
                {
                    "status": status,
                    "reason": reason,
                    "epochs": trainer.current_epoch,
                    "steps": trainer.global_step,
                    "monitor": self.best.monitor,
                    "best_score": self.best.best,
                    "best_epoch": self.best.best_epoch,
                    "last": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
                    "faults": dict(self.faults.counts),
                    "seconds": round(time.monotonic() - self.started, 1),
                    "model": "weights/best.safetensors",
                },
            )


def _trainer(
    state: _State, task: Task, callbacks: Sequence[L.Callback], placement: Mapping[str, Any], *, validates: bool
) -> L.Trainer:
    run, config, monitor = state.run, state.config, state.parts.monitor
    train = config.train
    seeds, means = StepSeeds(config.seed), task.means
    own: list[L.Callback] = [
        seeds,
        FiniteSteps(seeds, train.skip_nonfinite, state.weights, means, state.faults),
        means,
        *callbacks,
        state.best,
        state.weights,
        MetricsLog(run.metrics_path, state.storage),
        EpochLines(monitor, state.parts.losses, state.parts.scores),
        Checkpoints(run, state.best, state.storage, minutes=train.save_minutes, batch=train.batch_size),
        state.interruption,
        Watchdog(run.dir, train.hang_minutes, lambda trainer, reason: state.write_summary("hung", trainer, reason)),
    ]
    if train.early_stop is not None and validates:
        patience, min_delta = train.early_stop.patience, train.early_stop.min_delta
        own.append(EarlyStopping(monitor, mode="max", patience=patience, min_delta=min_delta))
    options = {"num_sanity_val_steps": 0, "enable_model_summary": False, **trainer_options(config), **placement}
    options["plugins"] += [SafeCheckpointIO(run.last_checkpoint, run.previous_checkpoint, state.storage)]
    if not validates:
        options["limit_val_batches"] = 0
    return L.Trainer(
        **options,
        max_epochs=train.epochs,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.clip or None,
        callbacks=own,
        logger=_loggers(run, state.storage),
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=run.dir,
    )


def _loggers(run: Run, storage: Storage) -> list[Logger]:
    return [OptionalTensorBoard(str(run.dir), storage)] if is_installed("tensorboard") else []


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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says at every fit, and the warnings of its that name nothing to be done."""
    names = (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.distributed",
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
            ".*all_gather is deprecated.*",  # Lightning 2.6.6 on torch 2.14
        ):
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            for library, level in levels:
                library.setLevel(level)
