"""torchvision's EfficientNets load with their own epsilon and padding, and are the same function."""

import jaxtyping
import pytest
import torch
import torchvision
from backbone_peers import SIZE, farthest, saved, stage_outputs
from peers import randomize
from torch import nn

from densenet_suite import create_backbone
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.schemes import SCHEMES, foreign_names
from densenet_suite.backbones.variants import PUBLISHED
from densenet_suite.backbones.weights import WeightSource, spec_for

PEERS = {f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(8)} | {
    f"efficientnetv2_{size}": f"efficientnet_v2_{size}" for size in "sml"
}


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", PEERS)
def test_names_and_shapes_of_all_tensors_are_torchvisions(name):
    with torch.device("meta"):
        ours = EfficientNet(PUBLISHED[name])
        peer = torchvision.models.get_model(PEERS[name], weights=None)
    head = (f"features.{len(peer.features) - 1}.", "classifier.")
    names = foreign_names(ours.spec, SCHEMES["torchvision"])
    assert {names[own]: tensor.shape for own, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in peer.state_dict().items() if not name.startswith(head)
    }


@pytest.mark.parametrize("name", PEERS)
def test_the_epsilon_of_each_variant_is_torchvisions(name):
    with torch.device("meta"):
        peer = torchvision.models.get_model(PEERS[name], weights=None)
    spec = spec_for(PUBLISHED[name], WeightSource("a file", "torchvision", {}))
    assert {module.eps for module in peer.modules() if isinstance(module, nn.BatchNorm2d)} == {spec.bn_eps}
    assert spec.padding == "symmetric"


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b3", "efficientnet_b5", "efficientnetv2_s"])
@torch.no_grad()
def test_features_are_torchvisions(name, tmp_path):
    peer = randomize(torchvision.models.get_model(PEERS[name], weights=None)).eval()
    ours = create_backbone(name, weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, *SIZE)
    stem, *stages, _ = peer.features
    assert farthest(ours(images), stage_outputs(stem, stages, images, name)) < 1e-6


@torch.no_grad()
def test_torchvision_weights_in_the_tensorflow_twin_bring_their_padding_and_epsilon(tmp_path, caplog):
    peer = randomize(torchvision.models.efficientnet_b0()).eval()
    with caplog.at_level("INFO"):
        ours = create_backbone("tf_efficientnet_b0", weights=saved(peer.state_dict(), tmp_path)).eval()
    images = torch.randn(1, 3, *SIZE)
    stem, *stages, _ = peer.features
    assert farthest(ours(images), stage_outputs(stem, stages, images, "efficientnet_b0")) < 1e-6
    assert "padding same to symmetric and BN epsilon 0.001 to 1e-05, which belong to the weights" in caplog.text
