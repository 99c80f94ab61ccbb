"""A gated kernel beside a gated map, as PyTorch computes it and as a compiler is given it."""

import jaxtyping
import pytest
import torch
from peers import apart, randomize

from densenet_suite.backbones.gated_conv import GatedConv, _gated_kernel
from densenet_suite.layers import Conv2d, ConvNormAct, Norm, SqueezeExcite


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a compiler cannot follow the checks


def gated_conv(act: str) -> GatedConv:
    project = ConvNormAct(Conv2d(8, 5, 1), Norm(eps=1e-3, momentum=0.01)(5), None)
    parts = [randomize(part).eval().double().requires_grad_(False) for part in (SqueezeExcite(8, 2, act), project)]
    parts[1].fuse_()
    return GatedConv(*parts)


@pytest.mark.parametrize("act", ["silu", "relu"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@torch.no_grad()
def test_a_gated_kernel_does_what_a_gated_map_does(act, backend):
    layer = gated_conv(act)
    maps = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    expected = layer.project(layer.gate(maps))
    assert apart(layer(maps), expected) < 1e-14
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for network in (layer, compiled):
        assert apart(network(maps[:1]), expected[:1]) < 1e-14


def test_a_compiler_is_given_gates_that_learn_step_by_step():
    layer = gated_conv("silu")
    maps = torch.randn(1, 8, 6, 7, dtype=torch.float64)
    gradients = []
    for network in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        given = maps.clone().requires_grad_()
        network(given).sin().sum().backward()
        gradients.append(given.grad)
    assert apart(*gradients) < 1e-14


@torch.no_grad()
def test_the_operator_is_as_it_says():
    gate = gated_conv("silu").gate
    convolutions = gate.reduce.weight, gate.reduce.bias, gate.expand.weight, gate.expand.bias
    given = torch.randn(5, 8, 1, 1).double(), torch.randn(1, 8, 6, 7).double(), *convolutions
    assert set(torch.library.opcheck(_gated_kernel, given).values()) == {"SUCCESS"}
