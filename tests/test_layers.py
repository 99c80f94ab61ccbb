import pytest
import torch
from peers import apart
from timm.layers import Conv2dSame
from torch import nn
from torchvision.ops import SqueezeExcitation

from densenet_suite.layers import (
    Conv2d,
    ConvNormAct,
    Norm,
    SeparableConv,
    SqueezeExcite,
    activation,
    recompute,
    with_act,
)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("size", [(7, 8), (10, 9), (1, 2)])
@torch.no_grad()
def test_a_same_convolution_is_tensorflows_on_rotated_maps(kernel, stride, size):
    ours = Conv2d(4, 6, kernel, stride=stride, same=True, bias=True)
    peer = Conv2dSame(4, 6, kernel, stride=stride)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, *size)
    assert apart(ours(x.flip((2, 3))).flip((2, 3)), peer(x)) < 1e-6
    ours.keep_rotated_()
    assert apart(ours(x.flip((2, 3))).flip((2, 3)), peer(x)) < 1e-6


@pytest.mark.parametrize("kernel", [1, 3, 5])
@torch.no_grad()
def test_a_symmetric_convolution_is_pytorchs(kernel):
    ours = Conv2d(4, 4, kernel, stride=2, groups=4)
    peer = nn.Conv2d(4, 4, kernel, 2, padding=kernel // 2, groups=4, bias=False)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(ours(x), peer(x))


@pytest.mark.parametrize(("name", "peer"), [("silu", nn.SiLU()), ("relu", nn.ReLU()), ("relu6", nn.ReLU6())])
def test_activations_are_pytorchs(name, peer):
    x = torch.linspace(-8, 8, 33)
    assert torch.equal(activation(name)(x.clone()), peer(x))


@torch.no_grad()
def test_squeeze_and_excitation_is_torchvisions():
    ours, peer = SqueezeExcite(8, 2, "silu"), SqueezeExcitation(8, 2, activation=nn.SiLU)
    names = {"fc1": "reduce", "fc2": "expand"}
    peer.load_state_dict(
        {f"{a}.{part}": getattr(getattr(ours, b), part) for a, b in names.items() for part in ("weight", "bias")}
    )
    x = torch.randn(2, 8, 5, 7)
    assert apart(ours(x), peer(x)) < 1e-6


@torch.no_grad()
def test_a_separable_convolution_is_its_two_parts():
    conv = SeparableConv(4, 6, bias=True)
    dense = torch.einsum("oi,ikl->oikl", conv.pointwise.weight[:, :, 0, 0], conv.depthwise.weight[:, 0])
    x = torch.randn(2, 4, 5, 7)
    assert apart(conv(x), nn.functional.conv2d(x, dense, conv.pointwise.bias, padding=1)) < 1e-5


def test_a_norm_has_the_numbers_it_is_given():
    norm = Norm(1e-3, 0.01)(8)
    assert (norm.num_features, norm.eps, norm.momentum) == (8, 1e-3, 0.01)


def test_no_activation_is_the_identity():
    assert isinstance(ConvNormAct(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), None).act, nn.Identity)


class FlatNorm(nn.Module):
    """A block around another kind of batch norm, as SyncBatchNorm is one."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x.flatten(2)).view_as(x)


@pytest.mark.parametrize(
    "block",
    [
        ConvNormAct(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), "silu"),
        ConvNormAct(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, momentum=None), "silu"),
        ConvNormAct(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), "silu"),
        FlatNorm(),
    ],
)
def test_recomputing_a_block_updates_its_statistics_once(block):
    block.train()
    state = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    results = []
    for run in (lambda x: block(x), lambda x: recompute(block, x)):
        block.load_state_dict(state)
        x = torch.arange(2 * 4 * 5 * 5.0).sin().view(2, 4, 5, 5).requires_grad_()
        y = run(x)
        y.sin().sum().backward()
        results.append([y, x.grad, *(buffer.clone() for buffer in block.buffers())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_norm_keeps_its_momentum_when_recomputing_fails():
    block = ConvNormAct(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=0.3), None).train()
    y = recompute(block, torch.randn(2, 4, 3, 3, requires_grad=True))
    block.conv.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    assert block.norm.momentum == 0.3


@torch.no_grad()
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("act", ["relu", "relu6", "silu"])
def test_an_activation_joins_the_convolution_before_it(act, dilation):
    conv, act = nn.Conv2d(4, 6, 3, padding=2, dilation=dilation), activation(act)
    x = torch.randn(2, 4, 7, 8)
    expected = act(conv(x))
    assert apart(with_act(conv, act)(x), expected) < 1e-6
