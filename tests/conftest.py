"""What all tests share: no network, fixed seeds, one thread per worker, the folder of data, a small trained run."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).parent / "offline"))
import sitecustomize  # noqa: F401  # blocks the network

# one thread for each worker and for what it starts: several in each of several processes run many times slower
os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("DENSENET_SUITE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

# the smallest detector that is one: trains a step in a blink
TINY = {
    "task": "detection",
    "name": "tiny",
    "model": {
        "architecture": "efficientdet_d0",
        "backbone": "efficientnet(width=0.25, depth=0.25)",
        "channels": 16,
        "cells": 1,
        "repeats": 1,
        "max_level": 5,
    },
    "data": {"size": [64, 96], "workers": 0},
    "train": {"epochs": 1, "batch": 4, "ema": 0.9, "recalibrate": 8},
    "trainer": {"accelerator": "cpu"},
}

# and the smallest segmenter
TINY_SEGMENTER = {
    "task": "segmentation",
    "name": "tiny",
    "model": {"decoder": "unet", "backbone": "efficientnet(width=0.25, depth=0.25)"},
    "data": {"crop": 64, "workers": 0},
    "train": {"epochs": 1, "batch": 4, "ema": 0.9, "recalibrate": 8},
    "trainer": {"accelerator": "cpu"},
}


# folders of tests that train: checking the shapes and types of every call takes three quarters of a small run's time
UNCHECKED = {"exporting", "faults", "report", "training", "verbs", "whole"}


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around all fixtures, which train too
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    with pytest.MonkeyPatch.context() as patch:
        if item.path.parent.name in UNCHECKED and item.path.name != "test_fit.py":
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        return (yield)


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _compiler_is_new() -> None:
    """Let no test use up the number of functions of one kind that a compiler takes before it gives up."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """Return a folder of the real data, or skip the test."""

    def folder(name: str) -> Path:
        path = DATA / name
        if not path.is_dir():
            pytest.skip(f"the real data {name} is not at {path}: set DENSENET_SUITE_TEST_DATA")
        return path

    return folder


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small dataset with boxes and masks: 12 images to train on, 5 to validate, 3 to test, 64 x 96 pixels."""
    from densenet_suite.synthetic import write_synthetic

    return write_synthetic(tmp_path_factory.mktemp("synthetic"), {"train": 12, "val": 5, "test": 3}, size=(64, 96))


def _config_file(factory: pytest.TempPathFactory, values: dict, root: Path) -> Path:
    import yaml

    path = factory.mktemp("configs") / "tiny.yaml"
    runs = factory.mktemp("runs")
    values = {**values, "output": str(runs), "data": {**values["data"], "root": str(root)}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory, synthetic: Path) -> Path:
    """Return the file of a config that trains a tiny detector on the synthetic data; override `output`."""
    return _config_file(tmp_path_factory, TINY, synthetic)


@pytest.fixture(scope="session")
def tiny_segmenter_config(tmp_path_factory: pytest.TempPathFactory, synthetic: Path) -> Path:
    """Return the file of a config that trains a tiny segmenter on the synthetic data; override `output`."""
    from densenet_suite.synthetic import MASK_CLASSES

    values = {**TINY_SEGMENTER, "data": {**TINY_SEGMENTER["data"], "classes": MASK_CLASSES}}
    return _config_file(tmp_path_factory, values, synthetic)


@pytest.fixture(scope="session")
def trained_run(tiny_config: Path):
    """Return a finished run of detection; tests read it, and change a copy."""
    from densenet_suite import train

    return train(tiny_config)


@pytest.fixture(scope="session")
def trained_segmenter_run(tiny_segmenter_config: Path):
    """Return a finished run of segmentation; tests read it, and change a copy."""
    from densenet_suite import train

    return train(tiny_segmenter_config)
