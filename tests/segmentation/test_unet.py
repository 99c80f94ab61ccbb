"""The fast form against what it stands for; that the numbers are smp's is held in parity/."""

import jaxtyping
import pytest
import segmentation_models_pytorch as smp
import torch
from peers import randomize
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from densenet_suite.segmentation.unet import UnetBlock, UnetDecoder, upsampling_kernel

CHANNELS = (4, 6, 8, 10, 12)


def features(size=(64, 96), channels=CHANNELS, first=2):
    strides = [first * 2**i for i in range(len(channels))]
    return [torch.randn(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(channels, strides, strict=True)]


def plain(block, x, skip, size):
    """What a block computes, in the words of its docstring."""
    joined = F.interpolate(x, size, mode="nearest")
    if skip is not None:
        joined = torch.cat((joined, skip), 1)
    y = block.norm1(block.conv1(joined)).relu()
    return block.norm2(block.conv2(y)).relu()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 4)])
def test_a_transposed_convolution_is_the_convolution_of_the_upsampled_map(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    found = F.conv_transpose2d(x, upsampling_kernel(weight), bias, stride=2, padding=1)
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight, bias), towards),
        torch.autograd.grad(expected, (x, weight, bias), towards),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7), (5, 7)])
@pytest.mark.parametrize("skipped", [0, 4])
def test_a_block_upsamples_joins_and_convolves(size, skipped, training):
    block = randomize(UnetBlock(5, skipped, 6, None)).double().train(training)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    skip = torch.randn(2, skipped, *size, dtype=torch.float64) if skipped else None
    torch.testing.assert_close(block(x, skip, size), plain(block, x, skip, size))


def test_a_gate_sees_the_joined_map():
    block = randomize(UnetBlock(5, 4, 6, "scse")).eval()
    x, skip = torch.randn(1, 5, 3, 4), torch.randn(1, 4, 6, 8)
    joined = block.gate1(torch.cat((F.interpolate(x, (6, 8)), skip), 1))
    y = block.norm1(block.conv1(joined)).relu()
    expected = block.gate2(block.norm2(block.conv2(y)).relu())
    with torch.no_grad():
        torch.testing.assert_close(block(x, skip, (6, 8)), expected)


def test_a_block_without_a_skip_has_no_gate_before_it():
    block = UnetBlock(5, 0, 6, "scse")
    assert block.gate1 is None
    assert block.gate2 is not None


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1)])
def test_levels_are_finest_first_and_as_large_as_the_maps_they_join(size):
    decoder = UnetDecoder(CHANNELS, (20, 16, 12, 8, 4)).eval()
    levels = decoder(features(size), size)
    assert decoder.channels == (4, 8, 12, 16, 20)
    assert [tuple(level.shape[1:]) for level in levels] == [
        (c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(decoder.channels, (1, 2, 4, 8, 16), strict=True)
    ]


@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_maps_from_stride_4_on_suffice(size):
    decoder = UnetDecoder(CHANNELS[1:], (20, 16, 12, 8, 4)).eval()
    levels = decoder(features(size, CHANNELS[1:], first=4), size)
    assert [tuple(level.shape[2:]) for level in levels[:2]] == [size, (-(-size[0] // 2), -(-size[1] // 2))]


@pytest.mark.parametrize("attention", [None, "scse"])
def test_every_parameter_is_used(attention):
    decoder = UnetDecoder(CHANNELS, (20, 16, 12, 24, 40), attention)
    decoder(features(), (64, 96))[0].sin().sum().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None] == []


def test_the_decoder_keeps_the_maps():
    maps = features()
    before = [m.clone() for m in maps]
    UnetDecoder(CHANNELS, (20, 16, 12, 8, 4))(maps, (64, 96))
    assert all(torch.equal(m, was) for m, was in zip(maps, before, strict=True))


def test_channels_last_gives_the_same():
    decoder = randomize(UnetDecoder(CHANNELS, (20, 16, 12, 8, 4))).eval()
    maps = features()
    with torch.no_grad():
        expected = decoder(maps, (64, 96))
        found = decoder.to(memory_format=torch.channels_last)(
            [m.contiguous(memory_format=torch.channels_last) for m in maps], (64, 96)
        )
    torch.testing.assert_close(found, expected)


def test_nearly_a_third_of_smps_products_is_saved(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    widths, outputs = (16, 24, 40, 112, 320), (256, 128, 64, 32, 16)  # EfficientNet-B0's

    def products(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    with torch.device("meta"):
        maps = features((256, 256), widths)
        image = torch.empty(2, 3, 256, 256)
        theirs = smp.decoders.unet.decoder.UnetDecoder([3, *widths], outputs)
        ours = UnetDecoder(widths, outputs)
    assert products(lambda: ours(maps, (256, 256))) < 0.7 * products(lambda: theirs([image, *maps]))
