"""A pointwise convolution, its norm and SiLU in one step against PyTorch's three."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from torch import nn
from torch.nn import functional as F

from densenet_suite.expansion import expanded, is_cheaper
from densenet_suite.layers import Conv2d, ConvNormAct, Norm

EPS = 1e-3


def one_step(x, conv, norm):
    return expanded(x, conv.weight, norm)


def three_steps(x, conv, norm):
    return F.silu(norm(F.conv2d(x, conv.weight)))


def made(channels, outputs, dtype, *, momentum=0.1):
    """Return a convolution and a norm that has been moved from where it starts."""
    conv, norm = nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs, EPS, momentum)
    norm.load_state_dict(
        {
            "weight": torch.linspace(0.5, -1.5, outputs),
            "bias": torch.linspace(-1, 1, outputs),
            "running_mean": torch.linspace(0, 3, outputs),
            "running_var": torch.linspace(1, 2, outputs),
        },
        strict=False,
    )
    return conv.to(dtype), norm.to(dtype)


def learned(way, x, conv, norm, towards):
    """Return what a way gives: the map, all gradients, the running statistics."""
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for layer in (conv, norm):
        layer.zero_grad()
    y = way(x, conv, norm)
    (y * towards).sum().backward()
    gradients = [p.grad.clone() for p in (x, *conv.parameters(), *norm.parameters())]
    return [
        y.detach(),
        *gradients,
        norm.running_mean.clone(),
        norm.running_var.clone(),
        norm.num_batches_tracked.clone(),
    ]


@repeatable
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 9), st.integers(1, 9)),
    st.integers(1, 12),
    st.sampled_from([0.1, 1.0, None]),
    st.integers(0, 2**20),
)
def test_values_gradients_and_statistics_are_pytorchs(shape, outputs, momentum, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64) * 3 + 5
    towards = torch.randn(shape[0], outputs, *shape[2:], dtype=torch.float64)
    state = torch.get_rng_state()
    results = []
    for way in (one_step, three_steps):
        torch.set_rng_state(state)
        results.append(learned(way, x, *made(shape[1], outputs, torch.float64, momentum=momentum), towards))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("offset", [0.0, 30.0], ids=["centred", "far from zero"])
def test_in_float32_it_is_as_near_to_float64_as_three_steps(offset):
    torch.manual_seed(0)
    x, towards = torch.randn(2, 8, 48, 48) + offset, torch.randn(2, 40, 48, 48)

    def found(way, dtype):
        torch.manual_seed(1)
        return learned(way, x.to(dtype), *made(8, 40, dtype), towards.to(dtype))

    exact = found(three_steps, torch.float64)
    ours, theirs = (found(way, torch.float32) for way in (one_step, three_steps))
    for a, b, wanted in zip(ours[:-1], theirs[:-1], exact[:-1], strict=True):
        off, allowed = ((value.double() - wanted).abs().max() / wanted.abs().max() for value in (a, b))
        assert off <= 2 * allowed + 1e-7


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    conv, norm = made(3, 5, torch.float64)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: one_step(x, conv, norm), (x, conv.weight, norm.weight, norm.bias))


def test_the_map_between_is_not_kept():
    kept = []
    x = torch.randn(1, 4, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        y = one_step(x, *made(4, 24, torch.float32))
    assert max(kept) == x.numel() < y.numel()


def test_the_network_takes_this_way_where_it_pays_and_no_other():
    block = ConvNormAct(Conv2d(4, 24, 1), Norm(EPS, 0.1)(24), "silu").train()
    x = torch.randn(1, 4, 32, 32).contiguous(memory_format=torch.channels_last)

    def is_ours(block, x):
        return "Expanded" in block(x).grad_fn.name()

    assert is_ours(block, x)
    assert not is_ours(block, x.contiguous())
    assert not is_ours(block, x[..., :31].contiguous(memory_format=torch.channels_last))
    assert not is_ours(block.eval(), x)
    assert not is_ours(ConvNormAct(Conv2d(4, 24, 1), Norm(EPS, 0.1)(24), "relu"), x)
    assert not is_ours(ConvNormAct(Conv2d(4, 24, 1), Norm(EPS, 0.1)(24), None), x)
    assert not is_ours(ConvNormAct(Conv2d(4, 24, 1, bias=True), Norm(EPS, 0.1)(24), "silu"), x)
    assert not is_ours(ConvNormAct(Conv2d(4, 24, 3), Norm(EPS, 0.1)(24), "silu"), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_ours(block.train(), x)
    with torch.no_grad():
        assert block(x).grad_fn is None
    assert not is_cheaper(x.bfloat16())
