"""Labelled scenes to samples: whole for evaluation, by windows for training."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from properties import repeatable
from rasterio.errors import NotGeoreferencedWarning

from densenet_suite.augment import AugmentPolicy
from densenet_suite.augment.masks import MaskAugment
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.geometry import resize
from densenet_suite.pixel_cache import RamCache
from densenet_suite.preprocess import Normalization
from densenet_suite.sampling import SampleKey, SequentialShard, Stream, derive_seed
from densenet_suite.segmentation import samples as module
from densenet_suite.segmentation.crops import choose_crop
from densenet_suite.segmentation.datasets import LabelledScene, SegmentationSet
from densenet_suite.segmentation.masks import DecodedMask, FileMask, MaskCodec
from densenet_suite.segmentation.samples import SameSizeBatches, Sample, SegmentationSamples, collate, missing_pixel
from densenet_suite.segmentation.structures import MaskClasses

pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")

SIZE = (50, 70)
SHAPES = AugmentPolicy(flip=0.5, scale=(0.7, 1.4))
STILL = AugmentPolicy()


@dataclass(frozen=True)
class _Mask:
    """A mask that is in memory."""

    mask: np.ndarray
    place: str = "mask.png"

    def decode(self):
        return DecodedMask(self.mask)


def _write(path, array, nodata=None):
    height, width, bands = array.shape
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
        return
    shape = {"height": height, "width": width, "count": bands, "dtype": array.dtype}
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 4000000)
    with rasterio.open(
        path, "w", driver="GTiff", **shape, crs="EPSG:32633", transform=transform, nodata=nodata
    ) as file:
        file.write(array.transpose(2, 0, 1))


def _set(folder, arrays, masks, suffix=".png", nodata=None):
    scenes = []
    for i, (array, mask) in enumerate(zip(arrays, masks, strict=True)):
        path = folder / f"{i}{suffix}"
        _write(path, array, nodata)
        scenes.append(LabelledScene(path, *array.shape[:2], array.shape[2], str(array.dtype), _Mask(mask)))
    counts = np.zeros((len(scenes), 3), np.int64)
    classes = MaskClasses(("a", "b", "c"), ((0, 0, 0),) * 3)
    return SegmentationSet("train", Path("data"), classes, tuple(scenes), Findings("data"), counts, counts)


def _augment(normalization, policy=SHAPES, crop=(32, 40), dtype=np.uint8, share=0.5):
    bands = len(normalization.mean)
    choose = partial(choose_crop, share_by_class=share)
    return MaskAugment(policy, crop, missing_pixel(normalization, dtype), (1.0,) * bands, choose)


def _noise(bands=3, dtype=np.uint8, high=256, number=2):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(1, high, (*SIZE, bands)).astype(dtype) for _ in range(number)]
    return arrays, [rng.integers(0, 3, SIZE).astype(np.uint8) for _ in range(number)]


IMAGENET = Normalization.imagenet()
DEEP = Normalization((1000.5,) * 5, (300.0,) * 5, value_range=1.0)


# whole images


def test_a_sample_for_evaluation_is_the_whole_image(tmp_path):
    arrays, masks = _noise()
    samples = SegmentationSamples(_set(tmp_path, arrays, masks), 3, IMAGENET)
    assert len(samples) == 2
    sample = samples[SampleKey(0, 1)]
    assert sample.image.dtype == sample.mask.dtype == torch.uint8
    assert (sample.image.numpy() == arrays[1].transpose(2, 0, 1)).all()
    assert (sample.mask.numpy() == masks[1]).all()
    assert sample.index == 1


@pytest.mark.parametrize("scale", [0.5, 1.3])
def test_a_scaled_image_keeps_the_mask_of_its_file(tmp_path, scale):
    arrays, masks = _noise()
    sample = SegmentationSamples(_set(tmp_path, arrays, masks), 3, IMAGENET, scale)[SampleKey(0, 0)]
    expected = resize(arrays[0], round(SIZE[0] * scale), round(SIZE[1] * scale))
    assert (sample.image.numpy() == expected.transpose(2, 0, 1)).all()
    assert (sample.mask.numpy() == masks[0]).all()


def test_deep_rasters_keep_their_values(tmp_path):
    arrays, masks = _noise(5, np.uint16, 60000)
    sample = SegmentationSamples(_set(tmp_path, arrays, masks, ".tif"), 5, DEEP)[SampleKey(0, 0)]
    assert sample.image.dtype == torch.float32
    assert (sample.image.numpy() == arrays[0].transpose(2, 0, 1)).all()


def test_pixels_without_data_are_the_mean_and_unlabelled(tmp_path):
    arrays, masks = _noise(5, np.int16, 3000)
    arrays[0][:10] = -9999
    samples = SegmentationSamples(_set(tmp_path, arrays, masks, ".tif", nodata=-9999), 5, DEEP)
    sample = samples[SampleKey(0, 0)]
    assert (sample.image[:, :10] == 1000.5).all()
    assert (sample.mask[:10] == 255).all()
    assert (sample.image[:, 10:].numpy() == arrays[0][10:].transpose(2, 0, 1)).all()
    assert (sample.mask[10:].numpy() == masks[0][10:]).all()
    assert (samples[SampleKey(0, 1)].mask.numpy() == masks[1]).all()


def test_all_channels_of_overlapping_classes_are_unlabelled_where_there_is_no_data(tmp_path):
    arrays, _ = _noise(5, np.int16, 3000, 1)
    arrays[0][:10] = -9999
    source = _set(tmp_path, arrays, [np.ones((3, *SIZE), np.uint8)], ".tif", nodata=-9999)
    for augment in (None, _augment(DEEP, STILL, SIZE, np.float32)):
        mask = SegmentationSamples(source, 5, DEEP, augment=augment)[SampleKey(0, 0)].mask
        assert (mask[:, :10] == 255).all()
        assert (mask[:, 10:] == 1).all()


@pytest.mark.parametrize("bands", [1, 3])
def test_bands_are_those_of_the_network(tmp_path, bands):
    arrays, masks = _noise()
    source = _set(tmp_path, arrays, masks)
    normalization = IMAGENET.for_bands(bands)
    for augment in (None, _augment(normalization)):
        sample = SegmentationSamples(source, bands, normalization, augment=augment)[SampleKey(0, 0)]
        assert len(sample.image) == bands


# crops


def _cropped(source, normalization, augment, seed, epoch, index, number):
    """What a crop must be, from the whole scene."""
    scene = source.scenes[index]
    whole = SegmentationSamples(source, len(normalization.mean), normalization)[SampleKey(0, index)]
    own_seed = derive_seed(seed, Stream.SAMPLE, epoch, number)
    cut = augment.place(scene.mask.mask, own_seed)
    image, mask = whole.image.numpy().transpose(1, 2, 0), whole.mask.numpy()
    fill = np.array(augment.fill, image.dtype)
    around = ((100, 100), (100, 100))
    padded = np.stack([np.pad(image[..., i], around, constant_values=fill[i]) for i in range(len(fill))], 2)
    window = np.s_[cut.top + 100 : cut.top + 100 + cut.height, cut.left + 100 : cut.left + 100 + cut.width]
    return augment.change(padded[window], np.pad(mask, around, constant_values=255)[window], cut, own_seed)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("crop", [(32, 40), (64, 64), (80, 90)])
def test_a_crop_by_its_window_is_the_crop_of_the_whole(tmp_path, suffix, crop):
    if suffix == ".png":
        arrays, masks, normalization, dtype = *_noise(), IMAGENET, np.uint8
    else:
        arrays, masks, normalization, dtype = *_noise(5, np.int16, 3000), DEEP, np.float32
        arrays[0][20:, :30] = -9999
    source = _set(tmp_path, arrays, masks, suffix, nodata=-9999)
    augment = _augment(
        normalization,
        AugmentPolicy(flip=0.5, scale=(0.7, 1.4), rotate90=0.5, rotate=20, elastic=1, brightness=0.2),
        crop,
        dtype,
    )
    samples = SegmentationSamples(source, len(normalization.mean), normalization, augment=augment, crops=3, seed=7)
    for number in range(6):
        sample = samples[SampleKey(4, number)]
        image, mask = _cropped(source, normalization, augment, 7, 4, number // 3, number)
        assert (sample.image.numpy() == image.transpose(2, 0, 1)).all()
        assert (sample.mask.numpy() == mask).all()
        assert sample.index == number // 3


def test_of_a_geotiff_no_more_than_the_window_is_read(tmp_path, monkeypatch):
    windows = []

    def noting(path):
        raster = open_raster(path)
        read = raster.read
        raster.read = lambda window: windows.append(window) or read(window)
        return raster

    open_raster = module.open_raster
    monkeypatch.setattr(module, "open_raster", noting)
    arrays, masks = _noise(5, np.int16, 3000)
    source = _set(tmp_path, arrays, masks, ".tif")
    samples = SegmentationSamples(source, 5, DEEP, augment=_augment(DEEP, STILL, (16, 20), np.float32), crops=20)
    for number in range(20):
        samples[SampleKey(0, number)]
    assert {(window.height, window.width) for window in windows} == {(16, 20)}


def test_a_draw_is_a_function_of_seed_epoch_and_index(tmp_path):
    source = _set(tmp_path, *_noise())

    def draw(seed=0, epoch=0, index=0):
        return SegmentationSamples(source, 3, IMAGENET, augment=_augment(IMAGENET), crops=2, seed=seed)[
            SampleKey(epoch, index)
        ].image

    assert torch.equal(draw(), draw())
    for other in ({"seed": 1}, {"epoch": 1}, {"index": 1}, {"index": 2}):
        assert not torch.equal(draw(), draw(**other))


# what has changed since


@pytest.mark.parametrize("cropped", [False, True])
def test_a_picture_that_has_changed_since_is_noticed(tmp_path, cropped):
    source = _set(tmp_path, *_noise())
    samples = SegmentationSamples(source, 3, IMAGENET, augment=_augment(IMAGENET) if cropped else None)
    Image.new("RGB", (70, 51)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="the picture has another size than when training began") as caught:
        samples[SampleKey(0, 0)]
    assert caught.value.problems[0].where == f"{tmp_path / '0.png'}; sample 0 of epoch 0, reading the picture"


def test_a_mask_that_has_changed_since_is_noticed(tmp_path):
    arrays, masks = _noise()
    samples = SegmentationSamples(_set(tmp_path, arrays, [masks[0][1:], masks[1]]), 3, IMAGENET)
    with pytest.raises(DataError, match="the mask has another size than when training began") as caught:
        samples[SampleKey(0, 0)]
    assert caught.value.problems[0].where == "mask.png; sample 0 of epoch 0, reading the mask"


# batches


def test_neighbours_of_one_size_share_a_batch(tmp_path):
    sizes = [(4, 6), (4, 6), (6, 4), (4, 6), (4, 6), (4, 6), (4, 6)]
    arrays = [np.zeros((*size, 3), np.uint8) for size in sizes]
    source = _set(tmp_path, arrays, [array[..., 0] for array in arrays])

    def batches(batch, *place):
        order = SameSizeBatches(source, SequentialShard(len(source), *place), batch)
        found = [[key.index for key in keys] for keys in order]
        assert len(order) == len(found)
        return found

    assert batches(3) == [[0, 1], [2], [3, 4, 5], [6]]
    assert batches(1) == [[i] for i in range(7)]
    assert batches(8, 0, 2) == [[0], [2], [4, 6]]
    assert batches(8, 1, 2) == [[1, 3, 5]]
    assert batches(8, 7, 8) == []


def test_a_batch_may_have_images_and_masks_of_different_sizes():
    sample = Sample(torch.zeros(3, 8, 9, dtype=torch.uint8), torch.ones(16, 18, dtype=torch.uint8), 4)
    batch = collate([sample, sample])
    assert (batch.images.shape, batch.masks.shape) == ((2, 3, 8, 9), (2, 16, 18))
    assert batch.indices.tolist() == [4, 4]
    assert len(batch) == 2


@repeatable
@given(st.data(), st.integers(1, 5), st.sampled_from([(), (1,), (3,)]), st.sampled_from([torch.uint8, torch.float32]))
def test_permuted_samples_are_a_permuted_batch(data, count, planes, dtype):
    height, width = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    samples = []
    for index in data.draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count)):
        image = torch.randint(0, 256, (2, height, width), generator=generator).to(dtype)
        mask = torch.randint(0, 256, (*planes, height, width), generator=generator).byte()
        samples.append(Sample(image, mask, index))
    order = data.draw(st.permutations(range(count)))
    batch, permuted = collate(samples), collate([samples[i] for i in order])
    for name in ("images", "masks", "indices"):
        assert torch.equal(getattr(permuted, name), getattr(batch, name)[list(order)])
    for i, sample in enumerate(samples):
        assert torch.equal(batch.images[i], sample.image)
        assert torch.equal(batch.masks[i], sample.mask)
        assert batch.indices[i] == sample.index


def test_a_missing_pixel_normalises_to_zero_or_is_the_networks_padding():
    assert missing_pixel(IMAGENET, np.uint8) == (124, 116, 104)
    assert missing_pixel(DEEP, np.float32) == (1000.5,) * 5
    padded = Normalization((0.5, 0.5), (0.1, 0.1), 1.0, padding=0)
    assert missing_pixel(padded, np.float32) == (0, 0)


def test_a_cache_of_images_and_masks_changes_no_crop(tmp_path):
    arrays, masks = _noise()
    source = _set(tmp_path, arrays, masks)
    codec = MaskCodec.create({"a": 0, "b": 1, "c": 2})
    scenes = []
    for i, (scene, mask) in enumerate(zip(source.scenes, masks, strict=True)):
        Image.fromarray(mask).save(tmp_path / f"mask{i}.png")
        scenes.append(replace(scene, mask=FileMask(codec, (tmp_path / f"mask{i}.png",))))
    source = replace(source, scenes=tuple(scenes))
    plain, cached = (
        SegmentationSamples(source, 3, IMAGENET, augment=_augment(IMAGENET), crops=4, cache=cache)
        for cache in (None, RamCache(10**6, 4))
    )
    for epoch in range(2):
        for index in range(len(plain)):
            one, other = (samples[SampleKey(epoch, index)] for samples in (plain, cached))
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.mask, other.mask)
