"""Steps of oneDNN against the same in several steps of PyTorch, which float64 takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peers import apart
from properties import repeatable
from torch.nn import functional as F

from densenet_suite.onednn import convolved, convolved_onto_, doubled

LAYOUTS = [torch.contiguous_format, torch.channels_last]
ACTS = {"none": lambda y: y, "relu": torch.relu, "swish": F.silu}


def operands(dtype, layout):
    torch.manual_seed(0)
    x, total, weight, bias = (
        torch.randn(shape).to(dtype) for shape in ((2, 8, 5, 6), (2, 4, 5, 6), (4, 8, 3, 3), (4,))
    )
    return x.contiguous(memory_format=layout), total.contiguous(memory_format=layout), weight, bias


def ways(x, total, weight, bias, act):
    """Return what each function gives, beside what it stands for."""
    turned = weight.transpose(0, 1).contiguous()
    kernel = F.pad(turned, (0, 1, 0, 1))  # 4x4
    of_map = F.conv2d(x, weight, padding=1)
    yield convolved(x, weight, bias, act, padding=(1, 1)), ACTS[act](of_map + bias.view(-1, 1, 1))
    yield convolved(x, weight, None, act, padding=(1, 1), stride=(2, 2)), ACTS[act](of_map[..., ::2, ::2])
    if act != "swish":
        yield convolved_onto_(total.clone(), x, weight, act), ACTS[act](total + of_map)
    yield doubled(x, kernel, bias, act), ACTS[act](F.conv_transpose2d(x, kernel, bias, stride=2, padding=1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@torch.no_grad()
def test_a_step_is_what_it_stands_for(dtype, allowed, act, layout):
    for found, expected in ways(*operands(dtype, layout), act):
        assert found.dtype == dtype
        assert apart(found, expected) < allowed


@repeatable
@given(
    st.tuples(*[st.integers(1, 8)] * 3),
    st.integers(1, 9),
    st.integers(1, 3),
    st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
)
@torch.no_grad()
def test_half_precision_takes_any_shape_in_any_layout(shape, outputs, batch, layouts):
    """oneDNN refuses some, such as maps of one cell: those are left to PyTorch.

    No larger ones here: oneDNN with AMX convolves maps of one or two columns and nine rows wrongly at a stride of 2, in
    F.conv2d as well.
    """
    shapes = (batch, *shape), (batch, outputs, *shape[1:]), (outputs, shape[0], 3, 3)
    maps = (torch.randn(s).bfloat16().contiguous(memory_format=m) for s, m in zip(shapes, layouts, strict=True))
    for found, expected in ways(*maps, torch.randn(outputs).bfloat16(), "relu"):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("act", ACTS)
def test_gradients_flow_where_they_are_wanted(act):
    x, total, weight, bias = (value.requires_grad_() for value in operands(torch.float32, torch.channels_last))
    for found, expected in ways(x, total, weight, bias, act):
        wanted = torch.autograd.grad(expected.sin().sum(), (x, weight), retain_graph=True)
        found_gradients = torch.autograd.grad(found.sin().sum(), (x, weight), retain_graph=True)
        for ours, theirs in zip(found_gradients, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_autocast_has_its_own_steps():
    x, total, weight, bias = operands(torch.float32, torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        for found, _ in ways(x, total.bfloat16(), weight, bias, "relu"):
            assert found.dtype == torch.bfloat16


@torch.no_grad()
def test_the_input_is_kept():
    x, total, weight, bias = operands(torch.float32, torch.channels_last)
    before = x.clone()
    for _ in ways(x, total, weight, bias, "relu"):
        assert torch.equal(x, before)
