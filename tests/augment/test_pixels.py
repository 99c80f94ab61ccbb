"""Arrays of any number of bands: resized, turned, padded."""

import numpy as np
import pytest

from densenet_suite.augment.pixels import blurred, mirrored, padded, shrink_or_enlarge, turned
from densenet_suite.geometry import resize

BANDS = (1, 2, 3, 4, 5, 13)


def _picture(bands=3, dtype=np.uint8, size=(120, 160)):
    """Smooth shapes with some grain, as pictures have."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (size[0] // 10, size[1] // 10, bands)).astype(np.float32)
    return (resize(coarse, *size) * 0.9 + rng.uniform(0, 25, (*size, bands))).clip(0, 255).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("bands", BANDS)
def test_any_number_of_bands_keeps_its_layout(bands, dtype):
    image = _picture(bands, dtype, (24, 32))
    for changed, size in [
        (shrink_or_enlarge(image, 20, 27), (20, 27)),
        (shrink_or_enlarge(image, 5, 60), (5, 60)),
        (turned(image, 1), (32, 24)),
        (mirrored(image, True, True), (24, 32)),
        (padded(image, 2, 3, (30, 40), range(bands)), (30, 40)),
        (blurred(image, 1.0), (24, 32)),
    ]:
        assert (changed.shape, changed.dtype) == ((*size, bands), dtype)


@pytest.mark.parametrize("share", [0.95, 0.8, 0.7, 0.6, 0.52, 0.5])
def test_shrinking_is_that_of_evaluation_to_a_few_grey_levels(share):
    image = _picture()
    size = round(120 * share), round(160 * share)
    error = shrink_or_enlarge(image, *size).astype(int) - resize(image, *size)
    assert np.abs(error).mean() < 1.5
    assert np.sqrt((error.astype(float) ** 2).mean()) < 2
    assert abs(error.mean()) < 0.3


def test_what_is_finer_than_the_result_is_averaged_and_not_skipped():
    stripes = np.zeros((60, 80, 1), np.uint8)
    stripes[:, ::2] = 255
    for size in ((30, 40), (33, 45), (20, 26), (10, 13)):
        assert (
            np.ptp(shrink_or_enlarge(stripes, *size)[2:-2, 2:-2]) <= 85
        )  # of three, one or two; 255 where pixels are skipped


@pytest.mark.parametrize("size", [(240, 320), (150, 190)])
def test_enlarging_is_bilinear_by_the_centres_of_pixels(size):
    image = _picture(dtype=np.float32)
    assert shrink_or_enlarge(image, *size) == pytest.approx(resize(image, *size), abs=0.5)


@pytest.mark.parametrize("bands", BANDS)
def test_the_padding_is_the_filling_of_each_band(bands):
    image = _picture(bands, np.float32, (10, 12))
    canvas = padded(image, 3, 4, (20, 30), [-1.5 - band for band in range(bands)])
    assert (canvas[3:13, 4:16] == image).all()
    canvas[3:13, 4:16] = 0
    assert canvas.sum((0, 1)) == pytest.approx((20 * 30 - 120) * (-1.5 - np.arange(bands)))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 4, -1])
def test_turns_are_numpys(quarters):
    image = _picture(5)
    assert (turned(image, quarters) == np.rot90(image, quarters)).all()


def test_a_blur_clips_nothing():
    image = np.full((20, 20, 2), -5000, np.float32)
    image[10, 10] = 7000
    assert blurred(image, 0.5).max() > 1000
    assert blurred(image, 0.5).mean() == pytest.approx(image.mean(), rel=1e-3)
