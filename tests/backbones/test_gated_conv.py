"""A gated kernel beside a gated map, as PyTorch computes it and as a compiler is given it."""

import jaxtyping
import pytest
import torch
from peers import apart, randomize

from densenet_suite.backbones.gated_conv import GatedConv, _gated_conv
from densenet_suite.layers import Conv2d, ConvNormAct, Norm, SqueezeExcite


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a compiler cannot follow the checks


def gated_conv(act: str) -> GatedConv:
    project = ConvNormAct(Conv2d(8, 5, 1), Norm(eps=1e-3, momentum=0.01)(5), None)
    parts = [randomize(part).eval().double().requires_grad_(False) for part in (SqueezeExcite(8, 2, act), project)]
    parts[1].fuse_()
    return GatedConv(*parts)


def maps(batch: int, channels: int, size: tuple[int, int] = (6, 7)) -> torch.Tensor:
    return torch.randn(batch, channels, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("act", ["silu", "relu"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(6, 7), (2, 2)])  # larger and smaller than the kernel
@pytest.mark.parametrize("adds", [False, True])
@torch.no_grad()
def test_a_gated_kernel_does_what_a_gated_map_does(act, batch, size, adds):
    layer = gated_conv(act)
    x, onto = maps(batch, 8, size), maps(batch, 5, size) if adds else None
    expected = layer.project(layer.gate(x)) + (onto if adds else 0)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for network in (layer, compiled):
        assert apart(network(x, onto), expected) < 1e-14


def test_a_compiler_is_given_gates_that_learn_step_by_step():
    layer = gated_conv("silu")
    x = maps(1, 8)
    gradients = []
    for network in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        given = x.clone().requires_grad_()
        network(given, None).sin().sum().backward()
        gradients.append(given.grad)
    assert apart(*gradients) < 1e-14


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("adds", [False, True])
@torch.no_grad()
def test_the_operator_is_as_it_says(batch, adds):
    layer = gated_conv("silu")
    layers = layer.gate.reduce, layer.gate.expand, layer.project.conv
    rows = [convolution.bias[None] for convolution in layers]
    given = maps(batch, 8), [convolution.weight for convolution in layers], rows, maps(batch, 5) if adds else None
    assert set(torch.library.opcheck(_gated_conv, given).values()) == {"SUCCESS"}
