"""Samples of several scenes."""

import numpy as np
import pytest

from densenet_suite.augment import AugmentPolicy
from densenet_suite.augment.masks import MaskAugment, cut_out
from densenet_suite.augment.segmentation import SegmentationAugment
from densenet_suite.sampling import Stream, derive_seed

CROP = (48, 64)
FILL = (7, 8, 9)


class _Flat:
    """Scenes of one value each: a left half of class 2 i, a right one of class 2 i + 1."""

    size = (90, 120)

    def __init__(self, bands=3, dtype=np.uint8, planes=0):
        self.bands, self.dtype, self.planes = bands, dtype, planes
        self.read = []

    def __len__(self):
        return 4

    def mask(self, index):
        mask = np.full(self.size, 2 * index, np.uint8)
        mask[:, 60:] += 1
        return np.stack([mask == i for i in range(self.planes)]).astype(np.uint8) if self.planes else mask

    def window(self, index, mask, cut):
        self.read.append(index)
        values = np.full((*self.size, self.bands), 20 + 40 * index, self.dtype)
        values[:, 60:] += 20
        planes = cut_out(mask.reshape(-1, *self.size).transpose(1, 2, 0), cut, (255,)).transpose(2, 0, 1)
        return cut_out(values, cut, FILL[: self.bands]), planes if self.planes else planes[0]


def _middle(mask, size, rng):
    return (mask.shape[-2] - size[0]) // 2, (mask.shape[-1] - size[1]) // 2


def _one(policy, bands=3):
    return MaskAugment(policy, CROP, FILL[:bands], (50.0,) * bands, _middle)


def _sample(policy, epoch=0, index=1, *, scenes=None, epochs=None, seed=0):
    scenes = scenes or _Flat()
    return SegmentationAugment(_one(policy, scenes.bands), seed, epochs).sample(scenes, epoch, index)


def test_a_sample_of_one_scene_is_its_crop_by_its_own_seed():
    policy = AugmentPolicy(flip=0.5, scale=(0.7, 1.4), brightness=0.3)
    scenes, seed = _Flat(), derive_seed(5, Stream.SAMPLE, 2, 1)
    mask, one = scenes.mask(1), _one(policy)
    cut = one.place(mask, seed)
    image, labels = one.change(*scenes.window(1, mask, cut), cut, seed)
    sample = _sample(policy, 2, 1, seed=5)
    assert (sample[0] == image).all()
    assert (sample[1] == labels).all()


@pytest.mark.parametrize(("bands", "dtype", "planes"), [(3, np.uint8, 0), (1, np.float32, 0), (2, np.uint8, 8)])
def test_a_mosaic_shows_four_scenes_with_their_masks(bands, dtype, planes):
    seen = set()
    for epoch in range(12):
        scenes = _Flat(bands, dtype, planes)
        image, mask = _sample(AugmentPolicy(mosaic=1), epoch, scenes=scenes)
        assert (image.dtype, mask.dtype) == (dtype, np.uint8)
        assert (image.shape, mask.shape) == ((*CROP, bands), (planes, *CROP) if planes else CROP)
        classes = mask.argmax(0) if planes else mask
        assert (image[..., 0] == 20 + 20 * classes).all()
        assert len(scenes.read) == 4
        assert 1 in scenes.read
        seen.add(len(np.unique(classes // 2)))
    assert max(seen) > 2


@pytest.mark.parametrize("planes", [0, 8])
def test_half_of_the_classes_of_another_crop_are_pasted(planes):
    pasted = 0
    for epoch in range(20):
        scenes = _Flat(planes=planes)
        image, mask = _sample(AugmentPolicy(copy_paste=1), epoch, scenes=scenes)
        classes = mask.argmax(0) if planes else mask
        assert (image[..., 0] == 20 + 20 * classes).all()
        assert (classes // 2 == scenes.read[1]).mean() == (0.5 if scenes.read[1] != 1 else 1)
        pasted += scenes.read[1] != 1
    assert pasted > 8


def test_what_is_not_labelled_is_not_pasted():
    class _Unlabelled(_Flat):
        def mask(self, index):
            mask = super().mask(index)
            return np.full_like(mask, 255) if index != 1 else mask

    for epoch in range(10):
        image, mask = _sample(AugmentPolicy(copy_paste=1), epoch, scenes=_Unlabelled())
        assert set(np.unique(mask).tolist()) == {2, 3}
        assert (image[..., 0] == 20 + 20 * mask).all()


@pytest.mark.parametrize("planes", [0, 8])
def test_what_is_erased_is_the_filling_and_not_labelled(planes):
    image, mask = _sample(AugmentPolicy(cutout=1), scenes=_Flat(planes=planes))
    erased = (image == FILL).all(-1)
    assert 0.015 < erased.mean() < 0.21
    assert ((mask == 255) == erased).all()


def test_the_last_epochs_have_one_scene_each():
    policy = AugmentPolicy(mosaic=1, copy_paste=1, cutout=1, randaugment=3, plain_epochs=2)
    read, erased = [], []
    for epoch in range(5):
        scenes = _Flat()
        _, mask = _sample(policy, epoch, scenes=scenes, epochs=5)
        read.append(len(scenes.read))
        erased.append(bool((mask == 255).any()))
    assert read == [5, 5, 5, 1, 1]
    assert erased == [True, True, True, False, False]


@pytest.mark.parametrize("bands", [1, 3])
def test_what_is_moved_into_view_by_randaugment_is_filling_and_not_labelled(bands):
    outside = 0
    for epoch in range(12):
        _, mask = _sample(AugmentPolicy(randaugment=2, magnitude=10), epoch, scenes=_Flat(bands, np.float32))
        assert set(np.unique(mask).tolist()) <= {2, 3, 255}
        outside += bool((mask == 255).any())
    assert outside > 5
