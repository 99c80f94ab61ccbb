import json
from dataclasses import asdict

import pytest
import timm
import torch
from peers import randomize
from torch import nn

from densenet_suite import Backbone, ConfigError, Level, create_backbone, register_backbone
from densenet_suite.backbones.base import BackboneCard
from densenet_suite.backbones.build import cost, count_macs, rebuild_backbone
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.variants import CUSTOM, PUBLISHED
from densenet_suite.preprocess import Normalization

TINY = "efficientnet(width=0.25, depth=0.25)"


class Mine(Backbone):
    def __init__(self, in_channels, drop_path, channels=8):
        super().__init__((Level(2, channels, 0.0, 3),), in_channels, Normalization.imagenet().for_bands(in_channels))
        self.conv = nn.Conv2d(in_channels, 8, 3, 2, padding=1)

    def forward(self, images):
        return [self.conv(images)]


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr(CUSTOM, "_entries", {})


def test_a_users_own_class_is_built_by_its_name():
    register_backbone("mine")(Mine)
    backbone = create_backbone("mine", in_channels=5)
    assert (type(backbone), backbone.in_channels, backbone.card) == (Mine, 5, BackboneCard("mine", 5))


def test_a_false_claim_of_a_users_own_class_is_refused_at_build():
    @register_backbone("mine")
    def mine(in_channels, drop_path):
        return Mine(in_channels, drop_path, channels=16)

    with pytest.raises(
        ConfigError, match=r"level 0 of a 256x256 image should be \(16, 128, 128\) .* is \(8, 128, 128\)"
    ):
        create_backbone("mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "efficientnet_bb"}, r"unknown backbone 'efficientnet_bb'\n  hint: did you mean"),
        ({"name": TINY, "in_channels": 0}, r"in_channels is 0, a network needs at least 1"),
        ({"name": TINY, "drop_path": 1.0}, r"drop_path is 1.0, the share of dropped images is from 0 to below 1"),
        ({"name": TINY, "drop_path": -0.1}, r"drop_path is -0.1, "),
        (
            {"name": "timm/resnet18", "checkpointing": True},
            r"backbone timm/resnet18 cannot checkpoint its activations\n  hint: EfficientNets can",
        ),
        (
            {"name": "mine", "weights": "a.pth"},
            r"backbone mine is registered by a factory, which loads its own weights",
        ),
        ({"name": TINY, "weights": "absent.pth"}, r"weight file does not exist  \(absent\.pth\)"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    register_backbone("mine")(Mine)
    with pytest.raises(ConfigError, match=message):
        create_backbone(**arguments)


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("name", [TINY, "timm/test_resnet"])
def test_any_number_of_bands_is_built(name, in_channels):
    backbone = create_backbone(name, in_channels)
    assert len(backbone.normalization.mean) == in_channels
    assert [m.shape[2] for m in backbone.eval()(torch.rand(1, in_channels, 64, 64))] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize(("drop_path", "rate"), [(None, 0.2), (0.0, 0.0), (0.5, 0.5)])
def test_drop_path_is_the_published_one_where_nothing_is_said(drop_path, rate):
    assert create_backbone(TINY, drop_path=drop_path).spec.drop_path == rate


@pytest.mark.parametrize("name", [TINY, "tf_efficientnetv2(phi=-3)", "timm/test_resnet"])
@torch.no_grad()
def test_the_card_builds_the_same_network_again(name):
    first = randomize(create_backbone(name, 4)).eval()
    second = rebuild_backbone(BackboneCard(**json.loads(json.dumps(asdict(first.card))))).eval()
    second.load_state_dict(first.state_dict())
    images = torch.randn(1, 4, 64, 65)
    assert all(torch.equal(a, b) for a, b in zip(first(images), second(images), strict=True))
    assert second.levels == first.levels
    assert json.dumps(asdict(second.card)) == json.dumps(asdict(first.card))


def test_a_card_can_be_rebuilt_with_checkpointing():
    assert rebuild_backbone(create_backbone(TINY).card, checkpointing=True).checkpointing


def test_the_card_holds_the_padding_that_came_with_the_weights(tmp_path):
    from densenet_suite.backbones.weights import export_tensors

    torch.save(export_tensors(create_backbone(TINY), "lukemelas"), tmp_path / "peer.pth")
    card = create_backbone(TINY, weights=tmp_path / "peer.pth").card
    assert (card.spec["padding"], card.spec["bn_eps"]) == ("same", 1e-3)


# billions as Tan & Le print them, with the head
@pytest.mark.parametrize(("name", "size", "billions"), [("efficientnet_b0", 224, 0.39), ("efficientnet_b1", 240, 0.70)])
def test_multiply_accumulates_are_the_published_ones(name, size, billions):
    assert count_macs(timm.create_model(name), 3, size) / 1e9 == pytest.approx(billions, rel=0.025)


def test_cost_is_that_of_timms_extractor():
    with torch.device("meta"):
        ours, peer = (
            EfficientNet(PUBLISHED["efficientnet_b0"]),
            timm.create_model("efficientnet_b0", features_only=True),
        )
    counted = cost(ours, 192)
    assert (counted.parameters, counted.size) == (sum(p.numel() for p in peer.parameters()), 192)
    assert counted.macs == count_macs(peer, 3, 192)


def test_counting_leaves_the_mode_alone():
    backbone = create_backbone(TINY).train()
    cost(backbone)
    assert backbone.training
