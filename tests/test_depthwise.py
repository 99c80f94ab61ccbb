"""Depthwise convolutions of wide kernels against PyTorch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from torch.nn import functional as F

from densenet_suite.depthwise import depthwise
from densenet_suite.layers import Conv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def gradients_of(y, inputs, towards):
    return torch.autograd.grad((y * towards).sum(), inputs)


@repeatable
@given(
    st.sampled_from([3, 5, 7]),
    st.sampled_from([1, 2]),
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from(LAYOUTS),
    st.integers(0, 2**20),
)
def test_values_and_gradients_are_pytorchs(kernel, stride, shape, layout, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(shape[1], 1, kernel, kernel, generator=generator).requires_grad_()
    found = depthwise(x, weight, stride)
    expected = F.conv2d(x, weight, None, stride, kernel // 2, groups=shape[1])
    assert torch.equal(found, expected)
    towards = torch.randn(found.shape, generator=generator)
    for ours, theirs in zip(*(gradients_of(y, (x, weight), towards) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_float64(stride):
    x = torch.randn(2, 3, 9, 8, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, requires_grad=True)
    exact = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    found = depthwise(x, weight, stride)
    expected = F.conv2d(exact[0], exact[1], None, stride, 2, groups=3)
    towards = torch.randn(found.shape)
    wanted = gradients_of(expected, exact, towards)
    for ours, theirs in zip(gradients_of(found, (x, weight), towards), wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_the_network_takes_this_way_for_wide_kernels_that_learn_and_no_other():
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    wide, narrow, whole = Conv2d(8, 8, 5, groups=8), Conv2d(8, 8, 3, groups=8), Conv2d(8, 8, 5)

    def is_ours(y):
        return "Wide" in y.grad_fn.name()

    assert is_ours(wide(x))
    assert not is_ours(narrow(x))
    assert not is_ours(whole(x))
    assert not is_ours(wide.double()(x.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_ours(wide.float()(x))
    wide.weight.requires_grad_(False)
    assert not is_ours(wide(x))


def test_images_that_do_not_learn_have_no_gradient():
    weight = torch.randn(4, 1, 5, 5, requires_grad=True)
    x = torch.randn(1, 4, 6, 6)
    depthwise(x, weight, 1).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad[:, 0, 2, 2], x.sum((0, 2, 3)))
