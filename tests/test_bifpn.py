"""The graph and its sizes; that its numbers are effdet's is held in parity/."""

import jaxtyping
import pytest
import torch
from peers import apart
from torch.nn import functional as F

from densenet_suite.bifpn import (
    BiFPN,
    FusionNode,
    Node,
    Resample,
    _fused_features,
    bifpn_graph,
    fusion_shares,
    weighted_sum,
)
from densenet_suite.layers import Norm

NORM = Norm(eps=1e-3, momentum=0.01)
NEAREST = Resample("nearest", same=False)


def neck(levels=5, in_channels=(4, 8, 12), **options):
    given = {"cells": 2, "fusion": "fast", "act": "silu", "norm": NORM, "resample": "nearest", "same": False} | options
    return BiFPN(in_channels, 8, levels, **given)


def node(steps, fusion="fast", act="silu", resample=NEAREST):
    return FusionNode(steps, 8, fusion, act, NORM, resample)


def test_the_graph_is_that_of_figure_3():
    assert bifpn_graph(5) == (
        Node(3, (3, 4)),
        Node(2, (2, 5)),
        Node(1, (1, 6)),
        Node(0, (0, 7)),
        Node(1, (1, 7, 8)),
        Node(2, (2, 6, 9)),
        Node(3, (3, 5, 10)),
        Node(4, (4, 11)),
    )


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (8, 1200), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"same": True}, {"resample": "bilinear"}, {"fusion": "sum", "levels": 6}])
def test_every_level_halves_the_one_below_rounding_up(size, options):
    sides = [(-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32, 64, 128, 256)]
    features = [torch.randn(1, c, *side) for c, side in zip((4, 8, 12), sides, strict=False)]
    pyramid = neck(**options).eval()(features)
    assert [tuple(level.shape[1:]) for level in pyramid] == [(8, *side) for side in sides[: len(pyramid)]]
    assert len(pyramid) == options.get("levels", 5)


def test_a_backbone_with_all_levels_needs_none_made():
    features = [torch.randn(1, 8, side, side) for side in (8, 4, 2)]
    assert [level.shape[-1] for level in neck(3, (8, 8, 8)).eval()(features)] == [8, 4, 2]


def test_inputs_are_not_changed():
    features = [torch.randn(2, c, s, s) for c, s in ((4, 16), (8, 8), (12, 4))]
    before = [level.clone() for level in features]
    neck().train()(features)
    assert all(torch.equal(level, was) for level, was in zip(features, before, strict=True))


def test_every_parameter_is_used():
    network = neck()
    features = [torch.randn(2, channels, side, side) for channels, side in ((4, 32), (8, 16), (12, 8))]
    total = sum(level.sin().sum() for level in network(features))
    total.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_inputs_are_shared_out_by_positive_weights():
    nodes = [node(steps) for steps in ((0, 1), (0, 0, -1), (0, 1))]
    nodes.insert(1, node((0, 0, -1), "sum"))
    weights = ([1.0, 3.0], None, [1.0, -2.0, 0.5], [0.0, 0.0])
    with torch.no_grad():
        for one, values in zip(nodes, weights, strict=True):
            if values is not None:
                one.weights.copy_(torch.tensor(values))
    expected = ([0.25, 0.75], [1, 1, 1], [2 / 3, 0, 1 / 3], [0, 0])
    for share, values in zip(fusion_shares(nodes), expected, strict=True):
        assert share.tolist() == pytest.approx(values, abs=1e-4)


def test_half_precision_leaves_shares_as_they_are():
    half = node((0, 1)).half()
    with torch.no_grad():
        half.weights.fill_(60_000.0)
    (share,) = fusion_shares([half])
    assert share.tolist() == pytest.approx([0.5, 0.5])


def test_tensorflows_pooling_pads_with_nothing_at_the_end():
    x = torch.randn(1, 2, 6, 7)
    padded = F.pad(x, (1, 1, 0, 1), value=float("-inf"))  # even: one at the end; odd: one on both sides
    pooled = Resample("nearest", same=True).down(x, (3, 4))
    assert torch.equal(pooled, F.max_pool2d(padded, 3, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_weighted_sum_repeats_what_has_half_the_size(layout):
    inputs = [torch.randn(2, 3, *size, dtype=torch.float64) for size in ((4, 6), (4, 6), (2, 3))]
    inputs = [x.contiguous(memory_format=layout).requires_grad_() for x in inputs]
    shares = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    whole = [*inputs[:2], F.interpolate(inputs[2], scale_factor=2.0)]
    expected = sum(x * share for x, share in zip(whole, shares, strict=True))
    found = weighted_sum(inputs, shares)
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, (shares, *inputs), towards) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_shares_that_do_not_learn_have_no_gradient():
    inputs = [torch.randn(1, 2, 2, 2, requires_grad=True) for _ in range(2)]
    weighted_sum(inputs, torch.ones(2)).sum().backward()
    assert all(torch.equal(x.grad, torch.ones_like(x)) for x in inputs)


def test_what_is_twice_as_large_is_left_to_the_sum():
    x = torch.randn(1, 2, 3, 3)
    assert Resample("nearest", same=False).up(x, (6, 6)) is x
    assert torch.equal(Resample("nearest", same=False).up(x, (5, 6)), F.interpolate(x, (5, 6)))


@pytest.mark.parametrize("sizes", [((6, 6), (6, 6), (12, 12)), ((3, 5), (2, 3)), ((1, 1), (1, 1))])
@pytest.mark.parametrize("resample", [Resample("nearest", same=True), Resample("bilinear", same=False)])
@pytest.mark.parametrize("act", ["silu", "relu"])
@torch.no_grad()
def test_a_compiler_fuses_as_pytorch_does(monkeypatch, sizes, resample, act):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a compiler cannot follow the checks
    steps = (0, 0, -1) if len(sizes) == 3 else (0, 1)
    network = node(steps, act=act, resample=resample).eval().double()
    inputs = [torch.randn(1, 8, *size, dtype=torch.float64) for size in sizes]
    shares = torch.tensor([0.5, 0.3, 0.2])[: len(steps)]
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert apart(compiled(inputs, shares), network(inputs, shares)) < 1e-14


@torch.no_grad()
def test_the_operator_is_as_it_says():
    inputs = [torch.randn(1, 8, side, side) for side in (6, 6, 12)]
    given = inputs, torch.tensor([[0.5, 0.3, 0.2]]), [0, 0, -1], "nearest", True
    assert set(torch.library.opcheck(_fused_features, given).values()) == {"SUCCESS"}
