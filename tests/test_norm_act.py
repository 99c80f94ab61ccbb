"""One function for batch norm and SiLU against PyTorch's two."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densenet_suite.norm_act import SiLU, norm_act

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pair(**options):
    norms = [nn.BatchNorm2d(6, **options).train() for _ in range(2)]
    for norm in norms if norms[0].affine else ():
        norm.load_state_dict({"weight": torch.linspace(0.5, 1.5, 6), "bias": torch.linspace(-1, 1, 6)}, strict=False)
    x = torch.randn(3, 6, 5, 4).requires_grad_()
    return norms, (x, x.detach().clone().requires_grad_())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_values_statistics_and_gradients_are_pytorchs(options, layout):
    (norm, peer), (x, twin) = pair(**options)
    towards = torch.randn(3, 6, 5, 4)
    for _ in range(2):
        found = norm_act(norm, SiLU(), x.contiguous(memory_format=layout))
        expected = F.silu(peer(twin.contiguous(memory_format=layout)))
        assert torch.equal(found, expected)
        for ours, theirs in ((found, x), (expected, twin)):
            (ours * towards).sum().backward()
            assert theirs.grad is not None
    torch.testing.assert_close(x.grad, twin.grad)
    torch.testing.assert_close([p.grad for p in norm.parameters()], [p.grad for p in peer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), peer.buffers(), strict=True))


def test_gradients_are_those_of_float64():
    norm, x = pair()[0][0].double(), torch.randn(2, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w, b: norm_act(norm, SiLU(), x), (x, norm.weight, norm.bias))


def test_two_maps_are_kept_where_there_were_three():
    def kept(function):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = function()
        return sum(size == y.numel() for size in sizes.values())

    (norm, peer), (x, twin) = pair()
    conv = nn.Conv2d(6, 6, 1)
    assert kept(lambda: F.relu(conv(norm_act(norm, SiLU(), x)))) == 3  # with the two that relu and conv keep
    assert kept(lambda: F.relu(conv(F.silu(peer(twin))))) == 4


@torch.no_grad()
def test_in_evaluation_it_is_what_it_says():
    (norm, _), (x, _) = pair()
    norm.eval()
    assert torch.equal(norm_act(norm, SiLU(), x), F.silu(norm(x)))
    assert torch.equal(norm_act(norm, nn.Identity(), x), norm(x))


def test_silu_overwrites_only_what_needs_no_gradient():
    x = torch.randn(4)
    leaf = x.clone().requires_grad_()
    learned = SiLU()(leaf)
    assert torch.equal(leaf.detach(), x)
    with torch.no_grad():
        y = x.clone()
        assert SiLU()(y) is y
    assert torch.equal(y, learned.detach())
