"""`train.batch: auto`: how many images a step has memory for, tried out before a run begins.

A copy of the network is trained on noise in the shape of the largest batch, through the run's own optimizer, average,
clipping, precision and checkpointing, with two images and then with four; what a step takes is linear in their number.
On a GPU the number that follows from it is tried out too. The run itself knows nothing of it: what is random in it, its
weights and its files are those of a run whose config names the number.
"""

import copy
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from densenet_suite.config.load import config_from_values, save_config
from densenet_suite.config.schema import Config
from densenet_suite.errors import ConfigError, SuiteError
from densenet_suite.labelled_data import LabelledData
from densenet_suite.optim import REFERENCE_BATCH
from densenet_suite.processes import Launch
from densenet_suite.task import Task
from densenet_suite.training.averaging import EvaluationWeights
from densenet_suite.training.free_memory import DeviceMemory, Room
from densenet_suite.training.launch import trainer_options
from densenet_suite.training.memory import LESS_MEMORY, is_out_of_memory

logger = logging.getLogger(__name__)
_STEPS = 2  # the optimizer makes its state in the first
_FEW, _MORE = 2, 4  # images; with a single one some batch norms have a single value
# arguments of the Trainer that decide what a step takes
_DECISIVE = (
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "benchmark",
    "deterministic",
    "gradient_clip_algorithm",
    "detect_anomaly",
    "plugins",
)


def choose_batch(config: Config, task: Task, data: LabelledData[Any], written: Path) -> Config:
    """Return a config with the largest batch that fits, write it down, and say so.

    Args:
        config: of the run.
        task: the network to train.
        data: the data to train on.
        written: the file of the config.

    Raises:
        SuiteError: not even a single image fits.
        ConfigError: there are several processes, or the device's memory cannot be measured.
    """
    caps = {
        f"an epoch has {data.epoch_length} samples": data.epoch_length,
        f"the learning rate is given for {REFERENCE_BATCH} images": REFERENCE_BATCH // config.train.accumulate,
    }
    reason, most = min(caps.items(), key=lambda cap: cap[1])
    probe = Probe(config, task, data)
    with _apart():
        fitting = most_that_fit(probe, probe.room, max(1, most), confirm=probe.memory.is_gpu)
    batch = fitting.images
    override = f"train.batch={batch}"
    chosen = config_from_values(config.model_dump(mode="json"), [override], where=str(written), check_paths=False)
    save_config(chosen, written)
    logger.info(
        "train.batch: auto chose %d, as %s: an image takes %s and a step %s, and %s are free; written to %s, for %s is "
        "the same run",
        batch,
        reason if batch == rounded(most) else "more may not fit",
        _gigabytes(fitting.image),
        _gigabytes(fitting.step),
        _gigabytes(probe.room.free),
        written.name,
        override,
    )
    return chosen


@dataclass(frozen=True)
class Fitting:
    """A batch that fits: how many images, and the bytes that its step and each further image take."""

    images: int
    step: float
    image: float


def most_that_fit(measure: Callable[[int], int | None], room: Room, most: int, *, confirm: bool) -> Fitting:
    """Return the largest batch whose step stays within a limit, from few measurements.

    Args:
        measure: returns what a step with so many images takes, in bytes; None where memory was not enough.
        room: the memory.
        most: images to allow.
        confirm: whether the number that was worked out is measured too, and lowered until it fits.

    Raises:
        SuiteError: a step with a single image does not fit.
    """
    few, more = measure(_FEW), None
    if few is None or few > room.limit:
        return _single(measure, room)
    if most > _FEW:
        more = measure(_MORE)
    if more is None or more > room.limit:
        return Fitting(min(_FEW, most), few, few / _FEW)
    image = max(1.0, (more - few) / (_MORE - _FEW))
    images = rounded(min(most, int(_MORE + (room.limit - more) / image)))
    step: float = more + image * (images - _MORE)
    while confirm and images > _MORE:
        used = measure(images)
        if used is not None and used <= room.limit:
            return Fitting(images, used, image)
        fewer = images // 2 if used is None else images - 1 - int((used - room.limit) / image)
        images = rounded(max(_MORE, min(fewer, images - 1)))
        step = more
    return Fitting(images, step, image)


def rounded(images: int) -> int:
    """Return the next smaller number that can be halved: of eight and more a multiple of eight."""
    return max(1, images - images % (8 if images >= 8 else 2))


def _single(measure: Callable[[int], int | None], room: Room) -> Fitting:
    """Return a batch of one image: there is no smaller one, so it may take all that is free."""
    used = measure(1)
    if used is None or used > room.free:
        takes = "more than there is" if used is None else _gigabytes(used)
        raise SuiteError(
            f"train.batch: auto found no batch: a step with a single image takes {takes}, and "
            f"{_gigabytes(room.free)} are free",
            hint=LESS_MEMORY,
        )
    return Fitting(1, used, used)


class Probe:
    """Trains a copy of a network on noise, and measures what memory that takes.

    Args:
        config: of the run.
        task: the network, which stays as it is.
        data: whose batches the noise is like.

    Raises:
        ConfigError: there are several processes, or the device's memory cannot be measured.
    """

    def __init__(self, config: Config, task: Task, data: LabelledData[Any]):
        self.config = config
        self.data = data
        launch, trainer = Launch.read(), self._trainer()
        processes = trainer.world_size if launch is None else launch.processes
        if processes > 1:
            raise ConfigError(
                f"train.batch: auto tries out what fits in a single process, and this run has {processes}",
                hint="start it with trainer.devices=1, and write the number that its log names: train.batch=...",
            )
        self.memory = DeviceMemory(trainer.strategy.root_device)
        self.task = copy.deepcopy(task)
        latest = config.train.recalibrate * data.largest_batch(1).images.nbytes  # they lie beside every step
        room = self.memory.room()
        self.room = room._replace(limit=max(0, room.limit - latest))
        self._before = self.memory.held()

    def __call__(self, images: int) -> int | None:
        """Return the bytes that steps with so many images take beside what was held before; None if they do not fit."""
        try:
            return max(0, self.memory.peak_of(lambda: self._train(images)) - self._before)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            self.task.trainer = None  # it holds an average on the device
            self.task.zero_grad()
            gc.collect()

    def _train(self, images: int) -> None:
        batch = self.data.largest_batch(images)
        trainer = self._trainer()
        places: Any = range(images * _STEPS * trainer.accumulate_grad_batches)
        loader: DataLoader[Any] = DataLoader(places, batch_size=images, collate_fn=lambda _: batch)
        trainer.fit(self.task, loader, val_dataloaders=[])

    def _trainer(self) -> L.Trainer:
        train = self.config.train
        return L.Trainer(
            **{key: value for key, value in trainer_options(self.config).items() if key in _DECISIVE},
            max_epochs=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            accumulate_grad_batches=min(train.accumulate, 2),  # from two on gradients lie beside the next batch
            gradient_clip_val=train.clip or None,
            callbacks=[EvaluationWeights(train.ema, train.recalibrate)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )


@contextmanager
def _apart() -> Iterator[None]:
    """Let what is done leave no trace in the log and in what is random."""
    suite = logging.getLogger("densenet_suite")
    level = suite.level
    suite.setLevel(logging.WARNING)
    try:
        with isolate_rng():
            yield
    finally:
        suite.setLevel(level)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
