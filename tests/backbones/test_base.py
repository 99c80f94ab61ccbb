import pytest
import torch
from torch import nn

from densenet_suite import ConfigError
from densenet_suite.backbones.base import Backbone, Level, Receptive, check_levels, trace
from densenet_suite.preprocess import Normalization

RIGHT = (Level(2, 8, 0.0, 3), Level(4, 16, 0.0, 7))


class TwoConvolutions(Backbone):
    def __init__(self, levels):
        super().__init__(levels, 3, Normalization.imagenet())
        self.first = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, 2, padding=1)

    def forward(self, images):
        x = self.first(images)
        return [x, self.second(x)]


def test_a_right_claim_is_accepted():
    check_levels(TwoConvolutions(RIGHT))


def test_geometry_may_be_left_unstated():
    check_levels(TwoConvolutions((Level(2, 8, None, None), Level(4, 16, None, None))))


def test_channels_and_strides_are_read_off_the_levels():
    backbone = TwoConvolutions(RIGHT)
    assert (backbone.channels, backbone.strides) == ((8, 16), (2, 4))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (RIGHT[::-1], r"strides \(4, 2\) do not ascend"),
        ((RIGHT[0], RIGHT[0]), r"strides \(2, 2\) do not ascend"),
        (RIGHT[:1], r"it states 1 levels and returns 2"),
        (
            (RIGHT[0], Level(4, 24, 0.0, 7)),
            r"level 1 of a 256x256 image should be \(24, 64, 64\) by its channels 24 and stride 4, and is "
            r"\(16, 64, 64\)",
        ),
        (
            (RIGHT[0], Level(8, 16, 0.0, 7)),
            r"level 1 of a 256x256 image should be \(16, 32, 32\) .* and is \(16, 64, 64\)",
        ),
        (
            (Level(2, 8, 1.0, 3), RIGHT[1]),
            r"level 0 states \(offset, receptive field\) \(1.0, 3\), measured \(0.0, 3\)",
        ),
        ((RIGHT[0], Level(4, 16, 0.0, 9)), r"level 1 states .* measured \(0.0, 7\)"),
    ],
)
def test_a_false_claim_is_refused(levels, message):
    with pytest.raises(ConfigError, match=message + r"\n  hint: correct its `levels`, or its `forward`"):
        check_levels(TwoConvolutions(levels))


def test_maps_that_drop_the_last_cells_are_refused():
    backbone = TwoConvolutions((RIGHT[0], Level(4, 16, None, None)))
    backbone.second = nn.Conv2d(8, 16, 2, 2)
    with pytest.raises(ConfigError, match=r"level 1 of a 97x130 image should be \(16, 25, 33\)"):
        check_levels(backbone)


def test_checking_leaves_weights_statistics_and_mode_alone():
    backbone = TwoConvolutions(RIGHT).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    check_levels(backbone)
    assert backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def reach(network, cell):
    """Return the columns of a 128 pixels wide image that a cell in the middle of the map depends on."""
    network = network.double().eval()
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    network(image)[0][:, :, cell, cell].sum().backward()
    columns = image.grad.abs().sum((0, 1, 2)).nonzero()
    return int(columns.min()), int(columns.max())


@pytest.mark.parametrize(
    ("network", "stride"),
    [
        (nn.Conv2d(3, 4, 5, 2, padding=2), 2),
        (nn.Conv2d(3, 4, 3, 1, padding=2, dilation=2), 1),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=1), nn.AvgPool2d(3, 2, padding=1)), 4),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=1), nn.AvgPool2d(2)), 4),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)), 2),
        (nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 7, padding=3, groups=4)), 4),
    ],
)
def test_the_traced_receptive_field_is_what_gradients_reach(network, stride):
    _, (field,) = trace(as_list(network), (1, 3, 128, 128))
    cell = 64 // stride
    first, last = reach(as_list(network), cell)
    assert field.stride == stride
    assert (field.first + cell * stride, field.last + cell * stride) == (first, last)


@pytest.mark.parametrize(
    "network",
    [nn.Upsample(scale_factor=2), nn.ConvTranspose2d(3, 4, 2, 2), nn.PixelShuffle(1)],
)
def test_the_field_is_unknown_behind_what_changes_the_grid(network):
    _, fields = trace(as_list(network), (1, 3, 32, 32))
    assert fields == [None]


class as_list(nn.Module):  # noqa: N801  # reads as a function
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return [self.network(images)]


def test_same_padding_moves_the_centre_of_cells_by_a_pixel():
    assert Receptive().convolution(3, 2, same=False).offset == 0
    assert Receptive().convolution(3, 2, same=True).offset == 1
