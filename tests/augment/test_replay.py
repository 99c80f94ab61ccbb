"""Any sample can be replayed: workers, epochs and a resumed run change nothing.

albumentations 2.0.8 by itself repeats its draws in every worker and every epoch. Here all pictures are
the same one, so that samples differ by their draws alone.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from densenet_suite.augment import library, preset_policy
from densenet_suite.augment.masks import MaskAugment
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.samples import DetectionSamples
from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings
from densenet_suite.preprocess import Normalization
from densenet_suite.sampling import EpochSampler, SampleKey
from densenet_suite.segmentation.crops import choose_crop
from densenet_suite.segmentation.datasets import LabelledScene, SegmentationSet
from densenet_suite.segmentation.masks import DecodedMask
from densenet_suite.segmentation.samples import SegmentationSamples
from densenet_suite.segmentation.structures import MaskClasses

PICTURES, SIZE = 12, (40, 56)
# more often than the preset, so that the few samples have everything
EVERYTHING = {"mosaic": 0.5, "copy_paste": 0.5, "cutout": 0.5, "randaugment": 2, "plain_epochs": 1, "compression": 0.3}
EVERYTHING |= {"rotate": 20, "blur": 1.0, "noise": 0.1, "gamma": 0.2, "rotate90": 0.5}


@dataclass(frozen=True)
class _Mask:
    """A mask that is in memory."""

    mask: np.ndarray
    place: str = "mask.png"

    def decode(self):
        return DecodedMask(self.mask)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path


def _detection(path, seed=0):
    boxes = np.array([[2.0, 3, 20, 30], [25, 5, 50, 35]])
    flags, ids = np.zeros(2, bool), (1, 2)
    objects = Objects(boxes, np.array([0, 1]), flags, np.ones(2), ids, (None, None))
    images = tuple(LabelledImage(i, path, *SIZE, objects) for i in range(PICTURES))
    source = DetectionSet("train", path, ClassTable.numbered(["a", "b"]), images, Findings("data"))
    policy = replace(preset_policy("strong", "detection"), **EVERYTHING, mixup=0.5)
    return DetectionSamples(source, (32, 48), 3, (0, 0, 0), policy, seed, epochs=3)


def _segmentation(path, seed=0):
    mask = np.random.default_rng(1).integers(0, 3, SIZE).astype(np.uint8)
    scenes = tuple(LabelledScene(path, *SIZE, 3, "uint8", _Mask(mask)) for _ in range(PICTURES // 2))
    counts, classes = np.zeros((len(scenes), 3), np.int64), MaskClasses(("a", "b", "c"), ((0, 0, 0),) * 3)
    source = SegmentationSet("train", Path("data"), classes, scenes, Findings("data"), counts, counts)
    policy = replace(preset_policy("strong", "segmentation"), **EVERYTHING, elastic=2)
    augment = MaskAugment(policy, (32, 48), (0,) * 3, (50.0,) * 3, partial(choose_crop, share_by_class=0.5))
    return SegmentationSamples(source, 3, Normalization.imagenet(), 1.0, augment, crops=2, seed=seed, epochs=3)


SAMPLES = {"detection": _detection, "segmentation": _segmentation}


def _content(sample):
    tensors = [value for value in vars(sample).values() if hasattr(value, "numpy")]
    return sample.index, b"".join(np.ascontiguousarray(tensor.numpy()).tobytes() for tensor in tensors)


def _epochs(samples, workers, persistent=False, epochs=3, skip=None):
    library.albumentations()  # once here, and not in every worker
    sampler = EpochSampler(len(samples), 5)
    if skip:
        sampler.skip(*skip)
    loader = DataLoader(
        samples, 3, sampler=sampler, num_workers=workers, persistent_workers=persistent, collate_fn=list
    )
    drawn = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn.append([_content(sample) for batch in loader for sample in batch])
    return drawn


@pytest.fixture(scope="module", params=SAMPLES)
def case(request, picture):
    samples = SAMPLES[request.param](picture)
    return request.param, samples, _epochs(samples, 0)


def test_every_draw_is_another_in_all_epochs_and_samples(case):
    _, _, epochs = case
    drawn = [content for epoch in epochs for _, content in epoch]
    assert len(drawn) == 3 * PICTURES
    assert len(set(drawn)) == len(drawn)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on fewer cores
@pytest.mark.parametrize(("workers", "persistent"), [(1, False), (2, False), (2, True), (4, False), (4, True)])
def test_workers_change_nothing(case, workers, persistent):
    _, samples, alone = case
    assert _epochs(samples, workers, persistent, epochs=2) == alone[:2]


def test_a_resumed_run_draws_what_an_uninterrupted_one_would_have(case):
    _, samples, whole = case
    resumed = _epochs(samples, 2, epochs=2, skip=(1, 6))
    assert resumed == [whole[0], whole[1][6:]]


def test_any_sample_can_be_replayed_from_three_integers(case, picture):
    task, _, epochs = case
    order = list(EpochSampler(PICTURES, 5))
    fresh = SAMPLES[task](picture)
    for place in (7, 0, 7):
        assert _content(fresh[SampleKey(0, order[place].index)]) == epochs[0][place]


def test_another_seed_draws_others(case, picture):
    task, _, epochs = case
    other = _content(SAMPLES[task](picture, seed=1)[SampleKey(0, 3)])[1]
    assert other not in {content for epoch in epochs for _, content in epoch}
