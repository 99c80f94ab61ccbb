"""efficientnet_pytorch, and the encoders of segmentation_models_pytorch that descend from it."""

import jaxtyping
import pytest
import segmentation_models_pytorch as smp
import torch
from backbone_peers import SIZE, farthest, saved
from efficientnet_pytorch import EfficientNet as Lukemelas
from peers import randomize

from densenet_suite import create_backbone
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.schemes import SCHEMES, foreign_names
from densenet_suite.backbones.variants import PUBLISHED

PEERS = {f"efficientnet_{size}": f"efficientnet-{size}" for size in [*(f"b{i}" for i in range(9)), "l2"]}


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def lukemelas(name):
    # without an image size it pads by the input's, as TensorFlow does
    return Lukemelas.from_name(PEERS[name], image_size=None)


@pytest.mark.parametrize("name", PEERS)
def test_names_and_shapes_of_all_tensors_are_those_of_efficientnet_pytorch(name):
    with torch.device("meta"):
        ours, peer = EfficientNet(PUBLISHED[name]), lukemelas(name)
    names = foreign_names(ours.spec, SCHEMES["lukemelas"])
    assert {names[own]: tensor.shape for own, tensor in ours.state_dict().items()} == {
        name: tensor.shape
        for name, tensor in peer.state_dict().items()
        if not name.startswith(("_conv_head.", "_bn1.", "_fc."))
    }


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b3"])
@pytest.mark.parametrize("twin", ["", "tf_"])
@torch.no_grad()
def test_features_are_those_of_efficientnet_pytorch(name, twin, tmp_path):
    peer = randomize(lukemelas(name)).eval()
    ours = create_backbone(twin + name, weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, *SIZE)
    endpoints = peer.extract_endpoints(images)
    assert farthest(ours(images), [endpoints[f"reduction_{i}"] for i in range(1, 6)]) < 1e-6


@torch.no_grad()
def test_features_are_those_of_the_encoder_inside_smps_networks(tmp_path, caplog):
    peer = randomize(smp.Unet("efficientnet-b0", encoder_weights=None)).eval()
    with caplog.at_level("INFO"):
        ours = create_backbone("efficientnet_b0", weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, 224, 224)  # smp's padding is right for the ImageNet size only
    shared = [1, 2, 4]  # smp reads the stem at stride 2, and at stride 16 the first block that has 112 channels
    theirs = peer.encoder(images)[1:]
    assert farthest([ours(images)[i] for i in shared], [theirs[i] for i in shared]) < 1e-6
    assert "left out: _bn1.bias" in caplog.text
