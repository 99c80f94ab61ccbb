import jaxtyping
import pytest
import timm
import torch
from backbone_peers import farthest, saved
from peers import apart, randomize
from torch import nn
from torch.nn import functional as F

from densenet_suite import ConfigError, create_backbone
from densenet_suite.backbones.base import check_levels
from densenet_suite.backbones.timm_adapter import timm_backbone

PYRAMIDS = {
    "resnet18": ((2, 4, 8, 16, 32), (64, 64, 128, 256, 512)),
    "convnext_atto": ((4, 8, 16, 32), (40, 80, 160, 320)),
    "mobilenetv3_small_050": ((2, 4, 8, 16, 32), (16, 8, 16, 24, 288)),
    "regnetx_002": ((2, 4, 8, 16, 32), (32, 24, 56, 152, 368)),
    "ghostnet_100": ((2, 4, 8, 16, 32), (16, 24, 40, 112, 160)),  # research/backbones.md, section 1.2
    "swin_tiny_patch4_window7_224": ((4, 8, 16, 32), (96, 192, 384, 768)),
}


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    # the checks go through every table of the family again and again
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_the_pyramid_is_stated_and_kept(name):
    with torch.device("meta"):
        backbone = timm_backbone(name)
    check_levels(backbone)
    assert (backbone.strides, backbone.channels) == PYRAMIDS[name]


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050", "regnetx_002"])
@torch.no_grad()
def test_maps_are_those_of_timms_own_extractor(name, tmp_path):
    peer = randomize(timm.create_model(name, features_only=True)).eval()
    ours = create_backbone(f"timm/{name}", weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, 96, 128)
    assert farthest(ours(images), peer(images)) < 1e-6


@torch.no_grad()
def test_maps_have_channels_first_where_timms_have_them_last(tmp_path):
    peer = timm.create_model("test_mambaout", features_only=True).eval()
    ours = create_backbone("timm/test_mambaout", weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, 64, 64)
    assert farthest(ours(images), [level.permute(0, 3, 1, 2) for level in peer(images)]) < 1e-6


@torch.no_grad()
def test_a_network_that_drops_rows_sees_the_image_padded_at_the_bottom_and_right():
    backbone = create_backbone("timm/convnext_atto").eval()
    images = torch.randn(1, 3, 97, 130)
    whole = backbone.net(F.pad(images, (0, 30, 0, 31)))
    expected = [
        level[:, :, : -(-97 // stride), : -(-130 // stride)]
        for level, stride in zip(whole, backbone.strides, strict=True)
    ]
    assert all(torch.equal(own, other) for own, other in zip(backbone(images), expected, strict=True))


@torch.no_grad()
def test_ghostnets_are_tapped_behind_the_last_block_of_each_stride(tmp_path):
    peer = randomize(timm.create_model("ghostnet_100")).eval()
    backbone = create_backbone("timm/ghostnet_100", weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, 64, 64)
    x = peer.act1(peer.bn1(peer.conv_stem(images)))
    expected = {}
    for stage in peer.blocks[:9]:
        x = stage(x)
        expected[64 // x.shape[-1]] = x  # the last of each stride stays
    assert farthest(backbone(images), list(expected.values())) < 1e-6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm/vit_tiny_patch16_224",
            r"backbone timm/vit_tiny_patch16_224 has no pyramid: all of its maps have stride 16\n"
            r"  hint: choose a network whose maps get coarser",
        ),
        (
            "timm/coat_tiny",
            r"backbone timm/coat_tiny does not work at every image size: (.|\n)*"
            r"hint: choose a convolutional network, or a transformer that takes any size",
        ),
    ],
)
def test_a_network_without_a_pyramid_for_any_size_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        create_backbone(name)


@pytest.mark.parametrize("name", ["vgg11", "ghostnet_100"])
def test_drop_path_of_a_network_that_has_none_is_refused(name):
    with pytest.raises(ConfigError, match=rf"timm/{name} has no stochastic depth\n  hint: leave drop_path out"):
        create_backbone(f"timm/{name}", drop_path=0.1)


def test_drop_path_reaches_timms_blocks():
    backbone = create_backbone("timm/convnext_atto", drop_path=0.3)
    rates = [module.drop_prob for module in backbone.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)


def test_a_tag_names_the_weights_and_their_statistics():
    with torch.device("meta"):
        backbone = timm_backbone("mobilenetv3_large_100.miil_in21k_ft_in1k")
    assert (backbone.normalization.mean, backbone.normalization.std) == ((0, 0, 0), (1, 1, 1))


@torch.no_grad()
def test_the_file_of_a_whole_classifier_loads_without_its_head(tmp_path, caplog):
    peer = randomize(timm.create_model("resnet18")).eval()
    with caplog.at_level("INFO"):
        ours = create_backbone("timm/resnet18", weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, 64, 64)
    assert apart(ours(images)[-1], peer.forward_features(images)) < 1e-6
    assert "left out: fc.bias, fc.weight" in caplog.text


@torch.no_grad()
def test_other_bands_adapt_the_first_layer(tmp_path):
    peer = randomize(timm.create_model("resnet18", features_only=True)).eval()
    path = saved(peer.state_dict(), tmp_path)
    ours = create_backbone("timm/resnet18", 5, weights=path).eval()
    images = torch.randn(1, 5, 64, 64)
    assert farthest(ours(images), peer(images[:, :3])) < 1e-5


def test_three_bands_in_another_order_are_refused(tmp_path):
    path = saved({"a": torch.zeros(1)}, tmp_path)
    with pytest.raises(ConfigError, match=r"would reorder the first layer of timm/resnet18(.|\n)*reorder the bands"):
        create_backbone("timm/resnet18", weights=path, bands=("blue", "green", "red"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layer2.0.conv1.weight"), r"layer2_0_conv1_weight is missing"),
        (
            lambda tensors: tensors.update({"layer2.0.conv1.weight": torch.zeros(1, 2)}),
            r"layer2\.0\.conv1\.weight is \[1, 2\], the network takes \[128, 64, 3, 3\]",
        ),
        (lambda tensors: tensors.update(a=tensors.pop("bn1.bias")), r"bn1\.bias is missing"),
    ],
)
def test_a_file_that_does_not_fill_the_network_is_refused(change, message, tmp_path):
    tensors = timm.create_model("resnet18").state_dict()
    change(tensors)
    path = saved(tensors, tmp_path)
    with pytest.raises(
        ConfigError, match=message.replace("_", "[._]") + r"(.|\n)*the file is not one of timm/resnet18"
    ):
        create_backbone("timm/resnet18", weights=path)


def test_batch_norms_keep_their_mode_while_the_pyramid_is_measured():
    assert all(module.training for module in timm_backbone("resnet18").modules() if isinstance(module, nn.BatchNorm2d))
