import json
from dataclasses import asdict

import jaxtyping
import pytest

from densenet_suite.errors import ConfigError
from densenet_suite.segmentation.variants import SegmenterSpec, decoder_spec, list_decoders, segmenter_spec


@pytest.fixture
def _unchecked(monkeypatch):
    # in the tests the check of types would be first
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_decoders_are_listed_by_pattern():
    assert list_decoders("unet*") == ["unet", "unetplusplus"]
    assert len(list_decoders()) == 12


def test_an_unknown_decoder_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown decoder 'unetpluplus'(.|\n)*did you mean unetplusplus"):
        decoder_spec("unetpluplus")


def test_where_no_name_is_near_all_are_told():
    with pytest.raises(ConfigError, match=r"unknown decoder 'x'(.|\n)*one of unet, unetplusplus, manet"):
        decoder_spec("x")


def test_the_usual_numbers_are_the_rows():
    spec = segmenter_spec("fpn")
    assert (spec.channels, spec.dropout, spec.norm) == ((256, 128), 0.2, "batch")


def test_a_spec_survives_json():
    spec = segmenter_spec("unet", channels=[64, 32, 16, 8, 4], attention="scse", norm="group", deep_supervision=True)
    assert SegmenterSpec.from_dict(json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("channels", [[64, 32], [64, 32, 16, 8, 0], []])
def test_another_number_of_widths_is_refused(channels):
    with pytest.raises(ConfigError, match=r"decoder unet has 5 widths(.|\n)*usual ones are \[256, 128, 64, 32, 16\]"):
        segmenter_spec("unet", channels=channels)


def test_widths_that_fpn_cannot_group_are_refused():
    with pytest.raises(ConfigError, match="channels of decoder fpn end in 48, which is not a multiple of 32"):
        segmenter_spec("fpn", channels=[64, 48])


def test_attention_that_a_decoder_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"decoder fpn has no attention(.|\n)*unet and unetplusplus can"):
        segmenter_spec("fpn", attention="scse")


def test_deep_supervision_that_a_decoder_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"decoder manet has no deep supervision(.|\n)*unet can"):
        segmenter_spec("manet", deep_supervision=True)


@pytest.mark.usefixtures("_unchecked")
def test_an_unknown_attention_is_refused():
    with pytest.raises(ConfigError, match=r"unknown attention 'cbam'(.|\n)*scse"):
        segmenter_spec("unet", attention="cbam")


@pytest.mark.usefixtures("_unchecked")
def test_an_unknown_norm_is_refused():
    with pytest.raises(ConfigError, match=r"unknown norm 'layer'(.|\n)*batch or group"):
        segmenter_spec("unet", norm="layer")
