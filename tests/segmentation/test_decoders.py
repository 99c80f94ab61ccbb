"""What every decoder has in common; that smp's are smp's is held in parity/."""

import jaxtyping
import pytest
import torch
from segmenters import Convolutions, tiny_segmenter
from torch import nn

from densenet_suite import ConfigError, register_backbone
from densenet_suite.backbones.variants import CUSTOM
from densenet_suite.segmentation.variants import DECODERS, list_decoders


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(params=[(4, 8, 16, 32), (2, 4, 8, 16, 32, 64), (2, 4, 8, 32)], ids=["from 4", "to 64", "without 16"])
def strides(request):
    """Register a backbone with these strides as "convolutions"."""
    register_backbone("convolutions")(lambda in_channels, drop_path: Convolutions(request.param, in_channels))
    yield request.param
    del CUSTOM._entries["convolutions"]


@pytest.mark.parametrize("decoder", list_decoders())
def test_images_of_any_size_get_logits_for_every_pixel(decoder):
    model = tiny_segmenter(decoder).eval()
    for size in ((33, 47), (97, 130), (250, 250), (1, 1)):
        with torch.no_grad():
            logits = model(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
        assert logits.shape == (1, 3, *size)
        assert logits.isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("decoder", list_decoders())
def test_one_small_image_alone_can_be_learned_from(decoder, norm):
    model = tiny_segmenter(decoder, norm=norm).train()
    logits = model(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8))
    logits.sin().sum().backward()
    assert logits.shape == (1, 3, 32, 32)
    parameters = [*model.decoder.named_parameters(), *model.head.named_parameters()]
    assert [name for name, parameter in parameters if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for _, parameter in parameters)


@pytest.mark.parametrize("decoder", list_decoders())
def test_group_norms_leave_no_batch_norm_but_those_of_one_channel(decoder):
    model = tiny_segmenter(decoder, norm="group")
    norms = [module for module in model.decoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.num_features == 1 for norm in norms)
    assert any(isinstance(module, nn.GroupNorm) for module in model.decoder.modules())


@pytest.mark.parametrize("strides", [(4, 8, 16, 32)], indirect=True, ids=["from 4"])
@pytest.mark.parametrize("decoder", list_decoders())
def test_no_decoder_needs_stride_2(decoder, strides):
    model = tiny_segmenter(decoder, backbone="convolutions").eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 33, 47)).shape == (1, 3, 33, 47)
    assert set(model.strides) == set(DECODERS[decoder].strides)


def test_gates_without_channels_are_refused():
    with pytest.raises(
        ConfigError, match=r"gates of unetplusplus need maps of at least 16 channels(.|\n)*decoder unet"
    ):
        tiny_segmenter("unetplusplus", attention="scse")


@pytest.mark.parametrize("strides", [(2, 4, 8, 16, 32, 64)], indirect=True, ids=["to 64"])
def test_maps_that_a_decoder_does_not_read_stay_out_of_it(strides):
    model = tiny_segmenter("unet", backbone="convolutions").eval()
    assert (model.strides, model.stride) == ((2, 4, 8, 16, 32), 64)


@pytest.mark.parametrize("strides", [(2, 4, 8, 32)], indirect=True, ids=["without 16"])
@pytest.mark.parametrize("decoder", [name for name in list_decoders() if 16 in DECODERS[name].strides])
def test_a_stride_that_the_backbone_lacks_is_named_with_backbones_that_have_it(decoder, strides):
    with pytest.raises(
        ConfigError,
        match=rf"decoder {decoder} needs stride 16, the backbone gives 2, 4, 8, 32(.|\n)*"
        r"EfficientNets and timm/resnet50 have 2, 4, 8, 16 and 32",
    ):
        tiny_segmenter(decoder, backbone="convolutions")
