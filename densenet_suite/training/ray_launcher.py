"""Training in the worker processes of a Ray cluster (the extra `ray`): the only module that knows Ray.

Ray starts the workers, on this machine or on many, and brings them together; what each of them does is `fit`, in the
same run folder, which therefore lies where all machines see it. Checkpoints are the run's own and Ray's are not used: a
group in which a worker was lost is replaced, and goes on from `last.ckpt` as `resume` does.

A cluster that is started here ends with the run, and has no dashboard. Ray listens on all addresses of the machine, and
asks for a token, which it keeps in ~/.ray. Its usage statistics are off before it is imported
(RAY_USAGE_STATS_ENABLED=0).
"""

import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Self

import lightning as L

from densenet_suite.config.schema import Config
from densenet_suite.errors import ConfigError, MissingExtraError, SuiteError
from densenet_suite.files import write_json, write_text
from densenet_suite.installed import is_installed
from densenet_suite.processes import is_first_process
from densenet_suite.training.faults import Faults
from densenet_suite.training.fit import fit
from densenet_suite.training.interruption import SIGNALS, InterruptedRunError, Interruption
from densenet_suite.training.launch import LostProcessError
from densenet_suite.training.run import Run

logger = logging.getLogger(__name__)

_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}
_START_TIMEOUT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}  # Ray's minute is short for a busy machine
_LOSSES = 3  # in a row, without a new checkpoint between them, that are made good
_OBJECTS = 100 * 2**20  # bytes of Ray's store of objects: nothing large passes through it
_STRATEGIES = {"auto": False, "ddp": False, "ddp_find_unused_parameters_true": True}


@dataclass(frozen=True)
class Workers:
    """The workers that a config asks for.

    Attributes:
        number: of them; each has one device.
        gpu: whether that is a GPU; None for those there are.
        finds_unused: whether a step may leave parameters without a gradient.
    """

    number: int
    gpu: bool | None
    finds_unused: bool

    @classmethod
    def of(cls, config: Config) -> Self:
        """Read the arguments of the Trainer.

        Raises:
            MissingExtraError: Ray is not installed.
            ConfigError: they leave the number of workers open, or ask for what cannot be had on Ray.
        """
        if not is_installed("ray"):
            raise MissingExtraError("training on Ray", "ray")
        for name in ("devices", "num_nodes"):
            count = config.trainer.get(name, 1 if name == "num_nodes" else None)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigError(
                    f"trainer.{name} is {count!r}, and Ray is told how many workers to start: a whole number",
                    hint=f"trainer.{name}=2; there are trainer.devices times trainer.num_nodes workers",
                )
        accelerator, strategy = (config.trainer.get(name, "auto") for name in ("accelerator", "strategy"))
        for name, value, known in (
            ("accelerator", accelerator, ("auto", "cpu", "gpu", "cuda")),
            ("strategy", strategy, tuple(_STRATEGIES)),
        ):
            if value not in known:
                raise ConfigError(
                    f"trainer.{name}={value} cannot be had on Ray", hint=f"trainer.{name} is one of {', '.join(known)}"
                )
        number = config.trainer["devices"] * config.trainer.get("num_nodes", 1)
        gpu = None if accelerator == "auto" else accelerator != "cpu"
        return cls(number, gpu, _STRATEGIES[strategy])


def fit_on_ray(run: Run, *, resume: bool = False, callbacks: Sequence[L.Callback] = ()) -> None:
    """Train into a run folder that all workers see.

    The cluster is the one that the program is connected to, or the one of RAY_ADDRESS, or else one that is started on
    this machine and ends with the run. A signal is passed on: the workers save and stop.

    Args:
        run: where to; its config says what.
        resume: continue from the folder's last checkpoint.
        callbacks: of Lightning, beside the run's own; each worker gets a copy.

    Raises:
        SuiteError: a worker raised it, or workers were lost again and again.
        InterruptedRunError: a signal stopped it.
        MissingExtraError: Ray is not installed.
        ConfigError: the config asks for what cannot be had on Ray.
    """
    workers = Workers.of(run.config)
    os.environ |= _ENVIRONMENT | {name: os.environ.get(name, value) for name, value in _START_TIMEOUT.items()}
    losses, reached = 0, _reached(run)
    with _Signals(run) as signals, _cluster(workers) as (workers, cores), _log_of_workers() as log:
        signals.listen()
        while True:
            settings = {"run": str(run.dir), "folder": str(Path.cwd()), "log": log}
            settings |= {"workers": workers, "resume": resume, "callbacks": [*callbacks, _Wishes(signals.path)]}
            try:
                return _train_workers(run, workers, cores, settings)
            except InterruptedRunError as error:
                raise InterruptedRunError(signals.received or signal.SIGTERM, run.dir) from error
            except LostProcessError as error:
                losses = losses + 1 if _reached(run) == reached else 1
                resume, reached = True, _reached(run)
                _note_loss(run, error, last=losses > _LOSSES)


def _train_workers(run: Run, workers: Workers, cores: int, settings: dict[str, Any]) -> None:
    """Let one group of workers train until it is done, or until one of them is not there any more."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    storage = run.dir / "ray"  # nothing stays in it
    trainer = TorchTrainer(
        _work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(
            num_workers=workers.number,
            use_gpu=bool(workers.gpu),
            resources_per_worker={"CPU": cores, **({"GPU": 1} if workers.gpu else {})},
        ),
        run_config=RunConfig(
            name="workers", storage_path=str(storage), failure_config=FailureConfig(max_failures=0)
        ),  # which errors are worth another try is decided here
    )
    try:
        with ThreadPoolExecutor(1) as pool:  # in the main thread, Ray would take the signals over
            pool.submit(trainer.fit).result()
    except WorkerGroupError as error:
        raise _cause(error) from None
    except TrainingFailedError as error:
        said = str(error).strip().splitlines()
        raise SuiteError(
            f"Ray could not start the workers: {said[-1]}",
            where=str(run.dir),
            hint="is the run folder (output=) on storage that all machines of the cluster share?",
        ) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _work(settings: dict[str, Any]) -> None:
    """Train, as one worker of the group."""
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    def placement() -> dict[str, Any]:
        return {
            "accelerator": "gpu" if workers.gpu else "cpu",
            "devices": "auto",
            "num_nodes": 1,  # Ray says how many processes there are, and which device is whose
            "strategy": RayDDPStrategy(find_unused_parameters=workers.finds_unused),
            "plugins": [RayLightningEnvironment()],
        }

    workers: Workers = settings["workers"]
    os.environ.pop("SLURM_STEP_NUM_TASKS", None)  # of the step that Ray itself was started in
    if Path(settings["folder"]).is_dir():
        os.chdir(settings["folder"])  # that relative paths of the config start from; Ray changes to one of its own
    sender = QueueHandler(settings["log"])
    ours = logging.getLogger("densenet_suite")
    if is_first_process():
        ours.addHandler(sender)
    try:
        run = Run.open(settings["run"])
        fit(run.config, run, resume=settings["resume"], callbacks=settings["callbacks"], placement=placement)
    finally:
        ours.removeHandler(sender)


def _cause(group: Any) -> Exception:
    """Return what ended a group of workers: an error that one of them raised, or that some were lost.

    Args:
        group: the WorkerGroupError of Ray.
    """
    failures: Mapping[int, Exception] = group.worker_failures
    lost = sorted(rank for rank, error in failures.items() if type(error).__module__.split(".")[0] == "ray")
    raised = [failures[rank] for rank in failures if rank not in lost]
    # a worker that is gone says nothing; those that were connected to it say so
    own = [error for error in raised if not isinstance(error, LostProcessError)]
    if own:
        told = next((error for error in own if isinstance(error, SuiteError)), own[0])
        if not isinstance(told, SuiteError):
            told.add_note(str(group))
        return told
    which = f"worker {', '.join(map(str, lost))}" if lost else "a worker"
    return LostProcessError(f"{which} of the run was lost")


def _note_loss(run: Run, error: SuiteError, *, last: bool) -> None:
    """Count lost workers in the run's summary, and say that they are replaced.

    Raises:
        SuiteError: this was the last time.
    """
    with run.logging():
        faults = Faults(run.summary.get("faults"))
        what = error.problems[0].what
        faults.note("lost_workers", what if last else f"{what}; the workers are replaced, from the last checkpoint")
        summary = run.summary | {"faults": dict(faults.counts)}
        if not last:
            write_json(run.dir / "summary.json", summary)
            return
        what = f"workers were lost {_LOSSES + 1} times in a row without a checkpoint between"
        write_json(run.dir / "summary.json", summary | {"status": "failed", "reason": what})
        raise SuiteError(
            what,
            where=str(run.dir),
            hint="mostly memory is too little, or machines come and go: lower train.batch, data.workers or "
            f"train.save_minutes; then: densenet-suite resume {run.dir} --launcher ray",
        )


def _reached(run: Run) -> int:
    """Return the time of the last checkpoint: losses count as in a row where it is still the same."""
    return run.last_checkpoint.stat().st_mtime_ns if run.last_checkpoint.is_file() else 0


@contextmanager
def _cluster(workers: Workers) -> Iterator[tuple[Workers, int]]:
    """Connect to a cluster, or start one on this machine; yield what its workers are, and how many cores each has.

    Raises:
        ConfigError: this machine has fewer GPUs than are asked for.
    """
    import ray

    with ExitStack() as stack:
        started = False
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        there = max(os.cpu_count() or 1, workers.number)
        if ray.is_initialized():
            pass  # whoever is connected goes on to be
        elif os.environ.get("RAY_ADDRESS"):
            stack.callback(ray.shutdown)
            ray.init(address=os.environ["RAY_ADDRESS"], **quiet)
        else:
            started = True
            folder = stack.enter_context(TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
            stack.callback(ray.shutdown)
            ray.init(
                address="local",
                num_cpus=there,
                include_dashboard=False,
                object_store_memory=_OBJECTS,
                _temp_dir=folder,
                **quiet,
            )
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if started and workers.gpu and gpus < workers.number:
            raise ConfigError(
                f"{workers.number} workers need a GPU each, and this machine has {gpus}",
                hint="trainer.accelerator=cpu, fewer trainer.devices, or the RAY_ADDRESS of a cluster that has them",
            )
        workers = replace(workers, gpu=gpus >= workers.number if workers.gpu is None else workers.gpu)
        yield workers, there // workers.number if started and not workers.gpu else 1


@contextmanager
def _log_of_workers() -> Iterator[Any]:
    """Yield a queue for what the first worker logs; it is said here, where the user is."""
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    listener = QueueListener(queue, *(logging.getLogger().handlers or [logging.StreamHandler(sys.stderr)]))
    listener.start()
    try:
        yield queue
    finally:
        listener.stop()
        queue.shutdown(force=True)


class _Signals:
    """Passes a signal on to the workers, by a file in the run folder; a second one ends the process at once."""

    def __init__(self, run: Run):
        self.path = run.dir / "stop"
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.getsignal(number) for number in SIGNALS}
        return self

    def listen(self) -> None:
        """Take the signals over, from Ray too."""
        for number in self._former:
            signal.signal(number, self._receive)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self.path.unlink(missing_ok=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = number
        write_text(self.path, str(number))


class _Wishes(L.Callback):
    """Hands a signal that came to the process of the user to the first worker.

    Args:
        path: of the file that tells it.
    """

    def __init__(self, path: Path):
        self.path = path

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let Ray see that the trainer is one of its own."""
        from ray.train.lightning import prepare_trainer

        prepare_trainer(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Look."""
        self._look(trainer)

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Look."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Look."""
        self._look(trainer)

    def _look(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and self.path.is_file():
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, Interruption):
                    callback.received = int(self.path.read_text(encoding="utf-8"))
