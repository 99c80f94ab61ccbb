"""A fused network answers as the original does; in float64, where nothing but the order of additions may differ."""

from copy import deepcopy

import jaxtyping
import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from peers import apart, randomize
from torch import nn
from torch._dynamo.testing import CompileCounter

from densenet_suite import create_backbone, create_detector, create_segmenter, fuse
from densenet_suite.detection.variants import detector_spec
from densenet_suite.norm_act import BatchNorm
from densenet_suite.preprocess import Normalization, Preprocess


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def live(model):
    return randomize(model).eval()


def pixels(batch, height, width):
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


NETWORKS = {
    "same padding": lambda: create_detector("tf_efficientdet_d0", num_classes=5),
    "sums of inputs, relu6": lambda: create_detector("tf_efficientdet_lite0", num_classes=5),
    "bilinear": lambda: create_detector("efficientdetv2_dt", num_classes=5),
    "timm's backbone": lambda: create_detector("efficientdet_d0", backbone="timm/resnet18", num_classes=5),
    "unet": lambda: create_segmenter("unet", backbone="efficientnet_b0", num_classes=3),
    "unet with gates": lambda: create_segmenter("unet", backbone="tf_efficientnet_b0", num_classes=3, attention="scse"),
    "group norm": lambda: create_segmenter("unet", backbone="efficientnet_b0", num_classes=3, norm="group"),
    "bifpn": lambda: create_segmenter("bifpn", backbone="efficientnet_b0", num_classes=3),
    "smp's decoder": lambda: create_segmenter("unetplusplus", backbone="efficientnet_b0", num_classes=3),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_fused_network_gives_the_same_answer(name):
    model = live(NETWORKS[name]()).double()
    fused = fuse(model, torch.float64)
    for size in ((1, 64, 96), (2, 65, 130)):
        images = pixels(*size)
        for ours, expected in zip(fused(images), model(images), strict=True):
            assert apart(ours, expected) < 1e-7  # anchors and fusion weights are of float32


@pytest.mark.parametrize("name", ["same padding", "unet"])
@torch.no_grad()
def test_a_cpu_computes_the_same_in_one_step(name):
    model = live(NETWORKS[name]())
    images = pixels(2, 65, 130)
    for ours, expected in zip(fuse(model)(images), model(images), strict=True):
        assert apart(ours, expected) < 1e-5


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_b0", "efficientnet_lite0", "tf_efficientnetv2_b0", "tf_efficientnet_cc_b0_4e"]
)
@torch.no_grad()
def test_backbones_are_fused_too(name):
    model = live(create_backbone(name)).double()
    images = torch.randn(2, 3, 33, 48, dtype=torch.float64)
    for ours, expected in zip(fuse(model, torch.float64)(images), model(images), strict=True):
        assert apart(ours, expected) < 1e-10


@pytest.mark.parametrize("name", ["same padding", "sums of inputs, relu6", "unet", "smp's decoder", "bifpn"])
def test_no_batch_norm_is_left(name):
    assert not [part for part in fuse(NETWORKS[name]()).modules() if isinstance(part, BatchNorm)]


@pytest.mark.parametrize("name", ["same padding", "unet", "smp's decoder"])
@torch.no_grad()
def test_batch_norms_of_several_processes_are_fused_too(name):
    model = live(NETWORKS[name]()).double()
    images = pixels(2, 64, 96)
    shared = TorchSyncBatchNorm().apply(deepcopy(model))
    assert [part for part in shared.modules() if isinstance(part, nn.SyncBatchNorm)]
    for network in (shared, TorchSyncBatchNorm().revert(deepcopy(shared))):
        fused = fuse(network, torch.float64)
        assert not [part for part in fused.modules() if isinstance(part, BatchNorm)]
        for ours, expected in zip(fused(images), model(images), strict=True):
            assert apart(ours, expected) < 1e-7


def test_the_original_stays_as_it_was():
    model = NETWORKS["same padding"]().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = fuse(model)
    assert model.training
    assert not fused.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_a_fused_network_has_gradients_for_its_input():
    model = live(NETWORKS["unet"]())
    images = torch.rand(1, 3, 32, 32) * 255
    gradients = []
    for network in (fuse(model), model):
        given = images.clone().requires_grad_()
        network(given).sin().sum().backward()
        gradients.append(given.grad)
    assert apart(*gradients) < 1e-4


@torch.no_grad()
def test_half_precision_keeps_the_digits_of_pixels():
    statistics = Normalization((0.4853, 0.4561, 0.4064), (0.2291, 0.2242, 0.2253))
    images = pixels(1, 16, 16)
    exact = Preprocess(statistics)(images)
    half = Preprocess(statistics).to(torch.bfloat16).to(memory_format=torch.channels_last)
    assert torch.equal(half(images), exact.to(torch.bfloat16))
    assert torch.equal(half.to(torch.float32)(images), exact)


@torch.no_grad()
def test_half_precision_moves_scores_a_little():
    model = live(NETWORKS["same padding"]())
    images = pixels(1, 64, 96)
    found, expected = fuse(model, torch.bfloat16)(images), model(images)
    assert found.class_logits.dtype == torch.bfloat16
    assert (found.class_logits.float().sigmoid() - expected.class_logits.sigmoid()).abs().max() < 0.02
    assert found.boxes().dtype == torch.float32


def small_detector():
    spec = detector_spec("tf_efficientdet_d0").with_numbers(channels=16, cells=1, repeats=1)
    return create_detector(spec, num_classes=5, backbone="tf_efficientnet_b0")


@pytest.mark.parametrize("create", [small_detector, NETWORKS["unet"]])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_a_compiler_needs_one_graph_for_images_of_several_sizes(create, batch):
    model = fuse(live(create()))
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for size in ((256, 384), (384, 512), (384, 256)):
        images = pixels(batch, *size)
        for ours, expected in zip(compiled(images), model(images), strict=True):
            assert apart(ours, expected) < 1e-5
    assert counter.frame_count == 1
