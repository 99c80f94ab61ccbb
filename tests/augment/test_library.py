"""albumentations 2.0.8 and its traps, each shut. What is about a whole sample stands in test_replay and test_masks."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import densenet_suite
from densenet_suite.augment import AugmentPolicy, library, photometry
from densenet_suite.augment.masks import MaskAugment
from densenet_suite.errors import ConfigError
from densenet_suite.preprocess import Normalization, Preprocess

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
MASK = np.zeros((40, 50, 1), np.uint8)


def _warp(seed, transforms=None):
    transforms = transforms or (library.elastic(3, 4), library.rotation(40))
    return library.warp(transforms, IMAGE, MASK, np.random.default_rng(seed))[0]


@pytest.fixture
def versions():
    library._version_of.cache_clear()
    yield
    library._version_of.cache_clear()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(library.albumentations(), "__version__", "2.0.16")
    with pytest.raises(ConfigError, match=r"albumentations 2\.0\.16 is installed, this version works with") as caught:
        library.albumentations()
    hint = "pip uninstall albumentationsx; pip install --force-reinstall albumentations==2.0.8"
    assert caught.value.problems[0].hint == hint


def test_albumentationsx_under_the_same_name_is_refused(monkeypatch, versions):
    real = importlib.metadata.version
    monkeypatch.setattr(library, "version", lambda name: "2.5.1" if name == "albumentationsx" else real(name))
    with pytest.raises(ConfigError, match=r"albumentationsx 2\.5\.1 is installed, this version works with albumentat"):
        library.albumentations()


def test_importing_it_asks_the_network_for_nothing():
    script = (
        "import socket, urllib.request, warnings\n"
        "warnings.simplefilter('error', UserWarning)\n"
        "def refuse(*a, **k): raise SystemExit('the network was asked')\n"
        "socket.socket.connect = socket.create_connection = urllib.request.OpenerDirector.open = refuse\n"
        "from densenet_suite.augment import library\n"
        "library.albumentations()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [{"alhpa": (0.2, 0.5)}, {"alpha": "much"}])
def test_an_argument_that_it_would_only_warn_of_is_an_error(arguments):
    with pytest.raises(TypeError, match=r"albumentations\.Sharpen: "):
        library.transform("Sharpen", arguments)


def test_draws_follow_from_the_seed_whatever_was_drawn_before():
    transforms = (library.elastic(3, 4), library.rotation(40))
    first = _warp(1, transforms)
    assert len({_warp(seed, transforms).tobytes() for seed in range(10)}) == 10
    assert (_warp(1, transforms) == first).all()
    assert (_warp(1) == first).all()


def test_transforms_are_not_seeded_alike():
    turns = [library.rotation(40), library.rotation(40)]
    seeds = []
    for turn in turns:
        set_seed = turn.set_random_seed
        turn.set_random_seed = lambda seed, set_seed=set_seed: (seeds.append(seed), set_seed(seed))
    _warp(0, tuple(turns))
    assert len(set(seeds)) == 2


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64, np.uint16, np.uint32, np.float32])
def test_masks_that_it_would_make_something_else_of_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"mask is {np.dtype(dtype)}, albumentations is given uint8"):
        library.warp((library.rotation(3),), IMAGE, MASK.astype(dtype), np.random.default_rng(0))


def test_the_border_of_a_mask_is_not_class_0():
    policy = AugmentPolicy(rotate=45, elastic=3)
    augment = MaskAugment(policy, (40, 50), (0,) * 3, (50.0,) * 3, lambda mask, size, rng: (0, 0))
    for seed in range(5):
        labels = augment(IMAGE, np.full((40, 50), 3, np.uint8), seed)[1]
        assert set(np.unique(labels).tolist()) == {3, 255}


@pytest.mark.parametrize("factor", [1.0, 2000.0, -1500.0, 1e-5])
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_floats_above_1_are_not_clipped(factor, bands):
    image = (np.random.default_rng(0).random((32, 40, bands)) * factor).astype(np.float32)
    policy = AugmentPolicy(
        flip=0.5, scale=(0.7, 1.4), rotate=20, elastic=2, brightness=0.2, contrast=0.2, blur=1, noise=0.1, randaugment=2
    )
    spread = (abs(factor) * 0.3,) * bands
    augment = MaskAugment(policy, (32, 40), (0.5 * factor,) * bands, spread, lambda mask, size, rng: (0, 0))
    for seed in range(8):
        changed = augment(image, np.zeros((32, 40), np.uint8), seed)[0]
        assert changed.dtype == np.float32
        assert np.abs(changed).max() > 0.5 * abs(factor)
        assert abs(changed.mean() / factor - 0.5) < 0.35


@pytest.mark.parametrize("image", [IMAGE.astype(np.float32), np.repeat(IMAGE, 2, 2), IMAGE[..., :2]])
def test_colours_that_it_would_clip_or_refuse_never_reach_it(image):
    with pytest.raises(ValueError, match=r"colours are \w+ of \d bands, albumentations is given 8-bit 1 or 3"):
        library.changed(library.compression(0.5), image)


def test_bands_are_normalised_by_their_own_numbers_and_not_by_the_firsts():
    means, deviations = (10.0, 200.0, 3000.0, 5.0, 0.5), (1.0, 20.0, 300.0, 0.5, 0.05)
    image = np.random.default_rng(0).normal(means, deviations, (60, 70, 5)).astype(np.float32)
    changed = photometry.recoloured(image, AugmentPolicy(), np.array(deviations), np.random.default_rng(0))
    preprocess = Preprocess(Normalization(means, deviations, value_range=1.0))
    seen = preprocess(torch.from_numpy(changed).permute(2, 0, 1)[None])[0]
    assert seen.mean((1, 2)).abs().max() < 0.1
    assert (seen.std((1, 2)) - 1).abs().max() < 0.1


def test_only_the_adapter_knows_it():
    folder = Path(densenet_suite.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    knowing = {str(path.relative_to(folder)) for path, text in sources.items() if "import albumentations" in text}
    assert knowing == {str(Path("augment", "library.py"))}
