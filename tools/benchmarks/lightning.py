"""What a run adds to a training step beside a plain loop, in milliseconds of CPU time.

A small segmenter trains for one epoch on synthetic crops: once as `train` does it, with the Trainer, all callbacks of a
run and its logging, and once in a loop of forward, loss, backward, clipping, optimizer and learning rate over the same
batches. A bare Trainer, of the same step without callbacks and logging, shows what of it is Lightning's. All must have
the same loss a few steps into the epoch. What is measured begins later, and ends before the epoch's end, where
checkpoints are written. `tiny` is a network of next to no weights, so what is left is the run's own; `unet` has three
million, which the run reads once more, to see that gradients are numbers. Averaging of weights is off: it is among the
`parts`.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from benchmarks.measuring import Comparison, Side
from densenet_suite.backbones.base import Backbone, Level
from densenet_suite.backbones.variants import register_backbone
from densenet_suite.config.load import config_from_values
from densenet_suite.config.schema import Config
from densenet_suite.preprocess import Normalization
from densenet_suite.sampling import Stream, derive_seed
from densenet_suite.segmentation.loss import segmentation_loss
from densenet_suite.synthetic import MASK_CLASSES, write_synthetic
from densenet_suite.training.fit import fit
from densenet_suite.training.run import Run
from densenet_suite.training.segmentation import SEGMENTATION

ROUNDS = 5
_IMAGES, _BATCH = 12, 2
_FIRST = 20  # steps before the clock starts
_COMPARED = 5  # the step whose loss must be the same; later ones drift apart, as rounding is not the same everywhere


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=100, help="that are measured in each round")


@register_backbone("five_convolutions")
class FiveConvolutions(Backbone):
    """A backbone that takes next to no time."""

    def __init__(self, in_channels: int, drop_path: float | None = None):
        levels = tuple(Level(2**i, 8, None, None) for i in range(1, 6))
        super().__init__(levels, in_channels, Normalization.imagenet().for_bands(in_channels))
        widths = (in_channels, *self.channels)
        self.layers = nn.ModuleList(nn.Conv2d(widths[i], 8, 3, 2, 1) for i in range(5))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps."""
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


class Clock(L.Callback):
    """Takes the CPU time between two steps of an epoch, and the loss of an earlier one."""

    def __init__(self, steps: int):
        self.last = _FIRST + steps
        self.started = self.seconds = self.loss = 0.0

    def step(self, index: int) -> None:
        """Note that a step begins."""
        if index == _FIRST:
            self.started = time.process_time()
        elif index == self.last:
            self.seconds = time.process_time() - self.started

    def keep(self, index: int, loss: Tensor) -> None:
        """Keep the loss of an early step."""
        if index == _COMPARED:
            self.loss = loss.item()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the step."""
        self.step(batch_idx)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the loss."""
        self.keep(batch_idx, outputs["loss"])


def comparisons(decoder: str, options: argparse.Namespace) -> Iterator[Comparison]:
    logging.getLogger("densenet_suite").addHandler(logging.NullHandler())  # a run then writes to its log alone
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(Path(folder), decoder, options.steps)
        clock = Clock(options.steps)
        ours = partial(run_ours, config, clock)

        def side(run_peer: Callable[[Config, Clock], float]) -> Side:
            peer_clock = Clock(options.steps)
            run = partial(run_peer, config, peer_clock)
            return Side(run, partial(same_loss, ours, run, (clock, peer_clock)))

        yield Comparison(
            f"{decoder}, {options.steps} training steps",
            Side(ours),
            {"loop in PyTorch": partial(side, run_loop), "bare Trainer": partial(side, run_bare)},
            items=options.steps,
            seconds=lambda run, calls: run(),  # both know themselves when to look at the clock
            beyond=True,
        )


def make_config(folder: Path, decoder: str, steps: int) -> Config:
    root = write_synthetic(folder / "data", {"train": _IMAGES}, size=(64, 64))
    crops = -(-(_FIRST + steps + 5) * _BATCH // _IMAGES)
    values = {
        "task": "segmentation",
        "name": "benchmark",
        "output": str(folder / "runs"),
        "model": {"decoder": decoder, "backbone": "five_convolutions"},
        "data": {
            "root": str(root),
            "classes": MASK_CLASSES,
            "crop": 32,
            "crops_per_image": crops,
            "holdout": 0.0,
            "workers": 0,
            "cache": "ram",
        },
        "train": {"epochs": 1, "batch": _BATCH, "ema": 0.0, "recalibrate": 0},
        "trainer": {"accelerator": "cpu"},
    }
    return config_from_values(values, where="benchmark")


def run_ours(config: Config, clock: Clock) -> float:
    """Train a run; return the CPU seconds of the measured steps."""
    fit(config, Run.create(config), callbacks=[clock])
    return clock.seconds


def run_loop(config: Any, clock: Clock) -> float:
    """Train in a loop; return the CPU seconds of the measured steps."""
    task, loader = task_and_batches(config)
    model = task.model.train()
    optimizer = task.recipe.build(model, config.train.batch_size)
    rates = [group["lr"] for group in optimizer.param_groups]
    for index, batch in enumerate(loader):
        clock.step(index)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * task.recipe.factor(index, len(loader), len(loader))
        loss = segmentation_loss(model(batch.images), batch.masks, task.loss).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()
        clock.keep(index, loss.detach())
    return clock.seconds


def run_bare(config: Any, clock: Clock) -> float:
    """Train by Lightning's Trainer with nothing of this package's around the step; return the CPU seconds."""
    task, loader = task_and_batches(config)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        gradient_clip_val=config.train.clip,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(BareModule(task, len(loader), config.train.batch_size), loader)
    return clock.seconds


class BareModule(L.LightningModule):
    """A step of the same network, loss, optimizer and learning rate, and no more."""

    def __init__(self, task: Any, steps: int, batch: int):
        super().__init__()
        self.model, self.loss, self.recipe = task.model, task.loss, task.recipe
        self.steps, self.batch = steps, batch

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the loss."""
        return segmentation_loss(self.model(batch.images), batch.masks, self.loss).total

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule."""
        optimizer = self.recipe.build(self.model, self.batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.recipe.factor(step, self.steps, self.steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def task_and_batches(config: Any) -> tuple[Any, Any]:
    """Return what a run trains, in the layout of memory that it has there, and its batches."""
    data = SEGMENTATION.data(config, None)
    torch.manual_seed(derive_seed(config.seed, Stream.WEIGHTS))
    task = SEGMENTATION.task(config, data)
    task.model.to(memory_format=torch.channels_last)
    return task, data.train_dataloader()


def same_loss(ours: Any, peer: Any, clocks: tuple[Clock, Clock]) -> None:
    ours()
    peer()
    found, expected = (clock.loss for clock in clocks)
    assert abs(found - expected) < 1e-3 * expected, f"the loss is {found:.6g}, and {expected:.6g} in the loop"


PARTS = {"tiny": partial(comparisons, "linknet"), "unet": partial(comparisons, "unet")}
