"""The graph and its sizes; that its numbers are effdet's is held in parity/."""

import pytest
import torch

from densenet_suite.bifpn import BiFPN, FusionNode, Node, bifpn_graph, fusion_shares
from densenet_suite.feature_fusion import Resample
from densenet_suite.layers import Norm

NORM = Norm(eps=1e-3, momentum=0.01)


def neck(levels=5, in_channels=(4, 8, 12), **options):
    given = {"cells": 2, "fusion": "fast", "act": "silu", "norm": NORM, "resample": "nearest", "same": False} | options
    return BiFPN(in_channels, 8, levels, **given)


def node(steps, fusion="fast"):
    return FusionNode(steps, 8, fusion, "silu", NORM, Resample("nearest", same=False))


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
