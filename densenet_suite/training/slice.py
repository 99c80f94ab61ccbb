"""What a run needs to know of a task: how a config becomes its data, its network and its files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densenet_suite.config.schema import TrainConfig
from densenet_suite.optim import Recipe


@dataclass(frozen=True)
class Slice:
    """One task.

    Attributes:
        data: makes the data module; called with the config and a trained network, or None.
        task: makes a new network under its Lightning module; called with the config and the data.
        trained: puts a trained network under its Lightning module; called with the config and the network.
        check: looks at splits that have been read, adds what it notices to their findings, and returns what the network
            will make of them as plain values; called with the config, the splits by name, and whether to compute what
            other settings would do.
        load: reads a model file; returns the network and the file's card.
        save: writes one; called with the path, the Lightning module, (height, width) and the provenance.
        monitor: the score that decides what is best, higher is better.
        losses, scores: of the epoch's line, as (key, title).
    """

    data: Callable[[Any, Any], Any]
    task: Callable[[Any, Any], Any]
    trained: Callable[[Any, Any], Any]
    check: Callable[[Any, Mapping[str, Any], bool], dict[str, Any]]
    load: Callable[[Path], tuple[Any, dict[str, Any]]]
    save: Callable[[Path, Any, tuple[int, int], Mapping[str, Any]], None]
    monitor: str
    losses: tuple[tuple[str, str], ...]
    scores: tuple[tuple[str, str], ...]


def recipe_of(train: TrainConfig) -> Recipe:
    """Return how weights are updated."""
    optimizer = train.optimizer
    return Recipe(optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay, train.warmup_epochs)
