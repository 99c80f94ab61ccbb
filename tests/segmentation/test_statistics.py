"""Statistics of the training data, held against numpy over everything at once."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from densenet_suite import moments as module
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.preprocess import Normalization, Preprocess
from densenet_suite.segmentation.datasets import LabelledScene, SegmentationSet
from densenet_suite.segmentation.statistics import class_weights, normalization_for, statistics
from densenet_suite.segmentation.structures import MaskClasses

pytestmark = pytest.mark.filterwarnings(f"ignore::{NotGeoreferencedWarning.__module__}.NotGeoreferencedWarning")


def _set(scenes=(), pixels=((1, 1),), known=((2, 2),), names=("a", "b")):
    return SegmentationSet(
        name="train",
        source=Path("data"),
        classes=MaskClasses(tuple(names), ((0, 0, 0),) * len(names)),
        scenes=tuple(scenes),
        findings=Findings("data"),
        pixel_counts=np.array(pixels, np.int64),
        known_counts=np.array(known, np.int64),
    )


def _scene(path, array):
    return LabelledScene(path, *array.shape[:2], array.shape[2], str(array.dtype), mask=None)


def _pictures(folder, arrays):
    scenes = []
    for i, array in enumerate(arrays):
        Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(folder / f"{i}.png")
        scenes.append(_scene(folder / f"{i}.png", array))
    return _set(scenes)


def _rasters(folder, arrays, nodata=None):
    scenes = []
    for i, array in enumerate(arrays):
        height, width, bands = array.shape
        path = folder / f"{i}.tif"
        shape = {"height": height, "width": width, "count": bands, "dtype": array.dtype}
        # otherwise GDAL takes the fourth band of 8 bits for alpha
        with rasterio.open(path, "w", driver="GTiff", **shape, nodata=nodata, photometric="MINISBLACK") as file:
            file.write(array.transpose(2, 0, 1))
        scenes.append(_scene(path, array))
    return _set(scenes)


def _random(*shapes, high=256, dtype=np.uint8):
    rng = np.random.default_rng(0)
    return [(rng.integers(0, high, shape) // np.arange(1, shape[2] + 1)).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("bands", [1, 3])
def test_8_bits_have_the_statistics_of_all_their_pixels_in_shares_of_255(tmp_path, bands):
    arrays = _random((20, 30, bands), (7, 50, bands), (1, 1, bands))
    found = statistics(_pictures(tmp_path, arrays), bands)
    pixels = np.concatenate([array.reshape(-1, bands) for array in arrays]) / 255
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-12)
    assert found.value_range == 255


@pytest.mark.parametrize("rows_at_once", [1, 3, 1000])
def test_many_bands_of_16_bits_have_them_in_their_own_unit(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", 30 * rows_at_once)
    arrays = _random((20, 30, 13), (11, 30, 13), high=60000, dtype=np.uint16)
    found = statistics(_rasters(tmp_path, arrays), 13)
    pixels = np.concatenate([array.reshape(-1, 13) for array in arrays]).astype(float)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-12)
    assert found.value_range == 1


def test_normalised_with_them_the_pixels_have_mean_0_and_deviation_1(tmp_path):
    (array,) = _random((40, 40, 5), high=9000, dtype=np.int16)
    normalization = statistics(_rasters(tmp_path, [array]), 5)
    images = torch.from_numpy(array.transpose(2, 0, 1)[None].astype(np.float32))
    normalised = Preprocess(normalization)(images)
    np.testing.assert_allclose(normalised.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std((0, 2, 3), correction=0), 1, atol=1e-4)


def test_large_values_that_hardly_differ_lose_no_digits(tmp_path):
    array = np.random.default_rng(0).normal(30000, 0.5, (50, 60, 1)).astype(np.float32)
    found = statistics(_rasters(tmp_path, [array]), 1)
    assert found.std[0] == pytest.approx(array.astype(np.float64).std(), rel=1e-9)


def test_pixels_without_data_are_left_out(tmp_path):
    arrays = [array.astype(np.float32) for array in _random((20, 30, 2), (20, 30, 2), high=1000, dtype=np.int16)]
    arrays[0][:5] = -9999
    arrays[1][3, 4] = np.nan
    found = statistics(_rasters(tmp_path, arrays, nodata=-9999), 2)
    valid = np.ones((2, 20, 30), bool)
    valid[0, :5] = valid[1, 3, 4] = False
    pixels = np.stack(arrays).astype(np.float64)[valid]
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-12)


def test_a_scene_without_any_data_counts_for_nothing(tmp_path):
    arrays = _random((20, 30, 2), (20, 30, 2), high=1000, dtype=np.int16)
    arrays[0][:] = -1
    found = statistics(_rasters(tmp_path, arrays, nodata=-1), 2)
    np.testing.assert_allclose(found.mean, arrays[1].reshape(-1, 2).mean(0), rtol=1e-12)


def test_images_without_any_data_are_refused(tmp_path):
    empty = np.full((5, 6, 2), -1, np.int16)
    with pytest.raises(DataError, match="no pixel of the training images has data") as caught:
        statistics(_rasters(tmp_path, [empty], nodata=-1), 2)
    assert caught.value.problems[0].where == "data"


def test_a_constant_band_normalises_to_zero_and_is_noted(tmp_path):
    (array,) = _random((20, 30, 3), high=1000, dtype=np.int16)
    array[..., 1] = 77
    train = _rasters(tmp_path, [array.astype(np.float32) / np.float32(3)])
    found = statistics(train, 3)
    assert found.std[1] == 1
    assert found.std[0] > 10
    (finding,) = train.findings
    assert (finding.check, finding.severity) == ("band-constant", "warning")
    assert str(finding) == "band 2 is 25.6667 in every pixel of the training images"


def test_grey_among_colours_counts_as_colours(tmp_path):
    grey, colour = _random((20, 30, 1), (20, 30, 3))
    found = statistics(_pictures(tmp_path, [grey, colour]), 3)
    pixels = np.concatenate([np.repeat(grey, 3, 2), colour]) / 255
    np.testing.assert_allclose(found.mean, pixels.reshape(-1, 3).mean(0), rtol=1e-12)


def test_only_8_bit_colours_keep_the_statistics_of_the_weights(tmp_path):
    for name, arrays, own in (
        ("colours", _random((5, 6, 3)), False),
        ("grey", _random((5, 6, 1)), True),
        ("four", _random((5, 6, 4)), True),
        ("deep", _random((5, 6, 3), high=5000, dtype=np.uint16), True),
    ):
        (tmp_path / name).mkdir()
        write = _pictures if name in ("colours", "grey") else _rasters
        train, bands = write(tmp_path / name, arrays), arrays[0].shape[2]
        assert normalization_for(train, bands) == (statistics(train, bands) if own else None)


def test_statistics_of_8_bits_are_those_of_imagenet_in_kind(tmp_path):
    found = statistics(_pictures(tmp_path, _random((5, 6, 3))), 3)
    assert found.value_range == Normalization.imagenet().value_range
    assert 0 < min(found.mean) < max(found.mean) < 1


# class weights


def test_weights_are_the_median_frequency_divided_by_each():
    # of those images that have the class: 0.6, 0.2 and 0.4
    train = _set(
        pixels=[[70, 30, 0], [50, 10, 40], [0, 0, 0]],
        known=[[100] * 3, [100] * 3, [100] * 3],
        names=("a", "b", "c"),
    )
    assert class_weights(train).tolist() == pytest.approx([0.4 / 0.6, 0.4 / 0.2, 0.4 / 0.4])
    assert class_weights(train).dtype == torch.float32


def test_weights_do_not_depend_on_images_that_have_no_labels():
    few = _set(pixels=[[30, 10]], known=[[40, 40]])
    more = _set(pixels=[[30, 10], [0, 0]], known=[[40, 40], [0, 0]])
    assert torch.equal(class_weights(few), class_weights(more))


def test_a_class_without_pixels_weighs_one():
    train = _set(pixels=[[30, 0, 10]], known=[[40] * 3], names=("a", "b", "c"))
    assert class_weights(train).tolist() == pytest.approx([20 / 30, 1, 2])


def test_without_any_labelled_pixel_all_weigh_one():
    assert class_weights(_set(pixels=[[0, 0]], known=[[0, 0]])).tolist() == [1, 1]


def test_equally_frequent_classes_weigh_one():
    assert class_weights(_set(pixels=[[20, 20], [7, 7]], known=[[40, 40], [20, 20]])).tolist() == [1, 1]
