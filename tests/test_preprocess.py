import json

import pytest
import torch
from peers import apart
from torchvision.transforms import v2

from densenet_suite.preprocess import IMAGENET_MEAN, IMAGENET_STD, Normalization, Preprocess


def test_pixels_are_normalised_as_torchvision_does():
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    peer = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    assert apart(Preprocess(Normalization.imagenet())(pixels), peer(pixels)) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [(torch.uint8, 255.0), (torch.uint16, 65535.0), (torch.int32, 4095.0), (torch.float32, 1.0), (torch.float64, 1.0)],
)
def test_pixels_of_any_depth_lie_within_the_range_of_their_file(dtype, value_range):
    preprocess = Preprocess(Normalization((0.5,), (0.5,), value_range))
    ends = torch.tensor([0, value_range]).to(dtype).view(1, 1, 1, 2)
    result = preprocess(ends)
    assert result.dtype == torch.float32
    assert result.flatten().tolist() == pytest.approx([-1, 1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_images_stay_as_they_were(dtype):
    images = torch.randint(0, 256, (1, 3, 4, 4)).to(dtype)
    before = images.clone()
    Preprocess(Normalization.imagenet())(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("bands", [1, 4])
def test_images_of_other_bands_are_refused(bands):
    with pytest.raises(
        ValueError, match=f"images have {bands} bands, the model takes 3: create it with in_channels={bands}"
    ):
        Preprocess(Normalization.imagenet())(torch.zeros(1, bands, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.5, 0.5), (0.5,)), "2 means for 1 deviations: one of each for every band"),
        (((0.5,), (0.0,)), r"std \(0.0,\) and value_range 255.0 must be positive"),
        (((0.5,), (0.5,), 0.0), r"value_range 0.0 must be positive"),
    ],
)
def test_statistics_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Normalization(*arguments)


def test_statistics_survive_json():
    normalization = Normalization((0.1, 0.2), (0.3, 0.4), 65535.0, padding=7)
    assert Normalization.from_dict(json.loads(json.dumps(normalization.to_dict()))) == normalization


def test_statistics_travel_beside_the_state_dict():
    assert Preprocess(Normalization.imagenet()).state_dict() == {}


def test_the_model_moves_them_to_its_device():
    assert Preprocess(Normalization.imagenet()).to("meta").scale.device.type == "meta"


@pytest.mark.parametrize(
    ("bands", "mean"),
    [
        (3, (0.1, 0.2, 0.6)),
        (1, (0.3,)),
        (2, (0.3, 0.3)),
        (5, (0.1, 0.2, 0.6, 0.3, 0.3)),
        (("blue", "new", "red"), (0.6, 0.3, 0.1)),
        (("grey", "green"), (0.3, 0.2)),
    ],
)
def test_a_band_has_the_statistics_of_its_colour_or_the_mean_of_all(bands, mean):
    normalization = Normalization((0.1, 0.2, 0.6), (0.5, 0.4, 0.3), 100.0, padding=3).for_bands(bands)
    assert normalization.mean == pytest.approx(mean)
    assert len(normalization.std) == len(mean)
    assert (normalization.value_range, normalization.padding) == (100.0, 3)


def test_statistics_of_other_bands_than_rgb_are_averaged():
    assert Normalization((0.2, 0.4), (0.5, 0.5)).for_bands(4).mean == pytest.approx((0.3,) * 4)


def test_padding_is_the_mean_colour():
    assert Normalization.imagenet().fill == (124, 116, 104)


def test_padding_can_be_a_value_of_its_own():
    assert Normalization(IMAGENET_MEAN, IMAGENET_STD, padding=0).fill == (0, 0, 0)


def test_padding_normalises_to_nearly_zero():
    normalization = Normalization.imagenet()
    pixel = torch.tensor(normalization.fill).view(1, 3, 1, 1)
    assert Preprocess(normalization)(pixel).abs().max() < 0.01
