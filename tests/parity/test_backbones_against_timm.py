"""Every EfficientNet is timm's: parameters on tensors without data, function up to B4 and V2-M; the larger ones by
tools/check_parity.py, because they take minutes.

Parameters are those of timm's feature extractor: all stages, without the last 1x1 convolution and the classifier.
Networks are compared in float64, where next to nothing is left to the order of additions, and gradients of float32,
which take other ways, with those of float64.
"""

from copy import deepcopy
from functools import cache

import jaxtyping
import pytest
import timm
import torch
from backbone_peers import SIZE, farthest, live_timm_features, saved, timm_features
from peers import apart, randomize

from densenet_suite import create_backbone
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.schemes import SCHEMES, foreign_names
from densenet_suite.backbones.variants import PUBLISHED

TOO_LARGE = ("_b5", "_b6", "_b7", "_b8", "_l2", "v2_l", "v2_xl")
RUN = [name for name in PUBLISHED if not name.endswith(TOO_LARGE)]
TRAINED = [
    "efficientnet_b0",
    "tf_efficientnet_b0",
    "tf_efficientnet_b2",
    "efficientnet_lite0",
    "tf_efficientnet_lite1",
    "efficientnet_es",
    "tf_efficientnet_es",
    "efficientnet_cc_b0_4e",
    "tf_efficientnet_cc_b0_4e",
    "efficientnetv2_b0",
    "tf_efficientnetv2_b0",
    "efficientnetv2_s",
]


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    # the checks take two thirds of the time of networks of hundreds of layers
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@cache
def without_data(name):
    """Return our network and timm's on the meta device."""
    with torch.device("meta"):
        return EfficientNet(PUBLISHED[name]), timm_features(name)


def test_every_variant_but_four_is_one_of_timms():
    assert {name for name in PUBLISHED if not timm.is_model(name)} == {f"efficientnetv2_b{i}" for i in range(4)}


def test_all_but_the_large_variants_are_run():
    assert len(RUN) == 44
    assert {name.removeprefix("tf_") for name in PUBLISHED.keys() - set(RUN)} == {
        *(f"efficientnet_b{i}" for i in range(5, 9)),
        "efficientnet_l2",
        "efficientnetv2_l",
        "efficientnetv2_xl",
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_parameters_is_timms(name):
    ours, peer = without_data(name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_of_all_tensors_are_timms(name):
    ours, peer = without_data(name)
    names = foreign_names(ours.spec, SCHEMES["timm"])
    assert {names[own]: tensor.shape for own, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in peer.state_dict().items()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_batch_norms_have_timms_epsilon_and_momentum(name):
    _, peer = without_data(name)
    norms = [module for module in peer.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(PUBLISHED[name].bn_eps, PUBLISHED[name].bn_momentum)}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if timm.is_model(name)])
def test_strides_and_channels_are_timms(name):
    ours, peer = without_data(name)
    assert (ours.strides, ours.channels) == (
        tuple(peer.feature_info.reduction()),
        tuple(peer.feature_info.channels()),
    )


@pytest.mark.parametrize("name", RUN)
@torch.no_grad()
def test_features_are_timms(name, tmp_path):
    peer = live_timm_features(name).eval()
    ours = create_backbone(name, weights=saved(peer.state_dict(), tmp_path)).eval().double()
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    assert farthest(ours(images), peer.double()(images)) < 1e-8


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_has_timms_outputs_gradients_and_statistics(name, tmp_path):
    peer = live_timm_features(name).train()
    ours = create_backbone(name, weights=saved(peer.state_dict(), tmp_path), drop_path=0.0).train()
    ours, peer = ours.double(), peer.double()
    inputs = [torch.randn(2, 3, *SIZE, dtype=torch.float64).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    maps = [ours(inputs[0]), peer(inputs[1])]
    for features in maps:
        sum((level / level.detach().std()).sin().sum() for level in features).backward()
    assert farthest(*maps) < 1e-10
    names = foreign_names(ours.spec, SCHEMES["timm"])
    parameters, buffers = dict(peer.named_parameters()), dict(peer.named_buffers())
    pairs = {own: (p.grad, parameters[names[own]].grad) for own, p in ours.named_parameters()}
    # a bias that the next norm takes away has no gradient but what rounding leaves
    gradients = {own: apart(*pair) for own, pair in pairs.items() if pair[1].abs().max() > 1e-10}
    assert len(gradients) > 0.9 * len(pairs)
    statistics = {own: apart(b.double(), buffers[names[own]].double()) for own, b in ours.named_buffers()}
    assert {own for own, difference in gradients.items() if difference > 1e-7} == set()
    assert {own for own, difference in statistics.items() if difference > 1e-10} == set()
    assert apart(inputs[0].grad, inputs[1].grad) < 1e-9


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b0", "efficientnetv2_b0"])
def test_gradients_in_float32_are_as_near_to_float64_as_timms(name, tmp_path):
    peer = live_timm_features(name).train()
    ours = create_backbone(name, weights=saved(peer.state_dict(), tmp_path), drop_path=0.0).train()
    exact = deepcopy(peer).double()
    images = torch.randn(2, 3, *SIZE)
    for network, given in ((ours, images), (peer, images), (exact, images.double())):
        sum((level / level.detach().std()).sin().sum() for level in network(given)).backward()
    names = foreign_names(ours.spec, SCHEMES["timm"])
    theirs, right = dict(peer.named_parameters()), dict(exact.named_parameters())
    kernels = {own: p.grad for own, p in ours.named_parameters() if p.ndim == 4}
    off = {
        own: tuple(apart(grad.double(), right[names[own]].grad) for grad in (gradient, theirs[names[own]].grad))
        for own, gradient in kernels.items()
    }
    assert {own: both for own, both in off.items() if both[0] > 10 * both[1]} == {}
    assert len(off) > 60


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_b4", "tf_efficientnet_es", "efficientnetv2_s"])
def test_drop_path_of_each_block_is_timms(name):
    with torch.device("meta"):
        ours, peer = EfficientNet(PUBLISHED[name]), timm_features(name, drop_path_rate=0.2)
    schedule = [(block.drop_path.p if block.drop_path else None) for stage in ours.stages for block in stage]
    assert schedule == [
        (getattr(block.drop_path, "drop_prob", 0.0) if block.has_skip else None)
        for stage in peer.blocks
        for block in stage
    ]


@torch.no_grad()
def test_dropped_paths_are_timms_for_the_same_draws(tmp_path):
    peer = live_timm_features("efficientnet_b0", drop_path_rate=0.4).train()
    ours = create_backbone("efficientnet_b0", weights=saved(peer.state_dict(), tmp_path), drop_path=0.4).train()
    images = torch.randn(4, 3, *SIZE)
    maps = []
    for network in (ours, peer):
        torch.manual_seed(1)
        maps.append(network(images))
    assert farthest(*maps) < 1e-6
    torch.manual_seed(2)
    assert farthest(ours(images), maps[1]) > 1e-2


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnet_lite0", "tf_efficientnetv2_b0"])
@torch.no_grad()
def test_the_file_of_a_whole_classifier_loads_without_its_head(name, tmp_path, caplog):
    peer = randomize(timm.create_model(name)).eval()
    with caplog.at_level("INFO"):
        ours = create_backbone(name, weights=saved(peer.state_dict(), tmp_path)).eval().double()
    images = torch.randn(1, 3, *SIZE, dtype=torch.float64)
    assert farthest(ours(images), peer.double().forward_intermediates(images, intermediates_only=True)) < 1e-9
    assert "left out: bn2.bias, bn2.num_batches_tracked" in caplog.text
