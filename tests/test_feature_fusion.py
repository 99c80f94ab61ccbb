"""Resampling and weighted sums; that what comes of them is effdet's is held in parity/."""

import jaxtyping
import pytest
import torch
from peers import apart
from torch import nn
from torch.nn import functional as F

from densenet_suite.feature_fusion import Resample, _whole, fused_features, weighted_sum
from densenet_suite.norm_act import SiLU


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
@pytest.mark.parametrize("act", [SiLU(), nn.ReLU()])
@torch.no_grad()
def test_a_compiler_fuses_as_pytorch_does(monkeypatch, sizes, resample, act):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a compiler cannot follow the checks
    steps = [0, 0, -1] if len(sizes) == 3 else [0, 1]
    inputs = [torch.randn(1, 8, *size, dtype=torch.float64) for size in sizes]
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[: len(steps)]
    compiled = torch.compile(fused_features, fullgraph=True, backend="aot_eager")
    given = inputs, shares, steps, resample, act
    assert apart(compiled(*given), fused_features(*given)) < 1e-14


@torch.no_grad()
def test_the_operator_is_as_it_says():
    inputs = [torch.randn(1, 8, side, side) for side in (6, 6, 12)]
    given = inputs, torch.tensor([[0.5, 0.3, 0.2]]), [0, 0, -1], "nearest", True
    assert set(torch.library.opcheck(_whole, given).values()) == {"SUCCESS"}
