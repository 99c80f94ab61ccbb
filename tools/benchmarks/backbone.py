"""A backbone's forward pass to its five maps, against timm, torchvision and the encoder of smp, with the same weights.

Ours is fused for inference; all sides are given normalised images. Peers differ in padding, epsilon and in which blocks
the maps are taken from, so ours is built as each of them is: `symmetric` against timm and torchvision, `same` against
timm's port of TensorFlow's, `smp` against smp's own encoder, which except for b0 pads as if images had the published
size, and is not equal at others.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.devices import add_device_options, kernel_figures, prepared, seconds_on
from benchmarks.measuring import Comparison, Side
from benchmarks.models import LAYOUTS, normalised, our_backbone, our_segmenter, smp_network, timm_features
from densenet_suite.backbones.base import Backbone
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.weights import export_tensors
from densenet_suite.fusing import fuse

ROUNDS = 7
_EQUAL = 1e-4  # of the largest value of each map


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", default="b0", help="of EfficientNet: b0 to b7")
    parser.add_argument("--size", type=int, default=512, help="of the images, a multiple of 32")
    parser.add_argument("--batch", type=int, default=1)
    add_device_options(parser, graph=True)


class Torchvision(nn.Module):
    """torchvision's EfficientNet without its head, returning the last map of each stride."""

    def __init__(self, ours: EfficientNet, variant: str):
        super().__init__()
        from torchvision import models

        stages = models.get_model(f"efficientnet_{variant}").features[: len(ours.spec.stages) + 1]
        self.features = stages
        self.load_state_dict(export_tensors(ours, "torchvision"))
        self.taps = ours.spec.taps()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, fine to coarse."""
        x = self.features[0](images)
        maps = []
        for i, stage in enumerate(self.features[1:]):
            x = stage(x)
            if i in self.taps:
                maps.append(x)
        return maps


class SmpEncoder(nn.Module):
    """smp's encoder, without the image that it returns as its first map."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, fine to coarse."""
        return self.encoder(images)[1:]


def symmetric_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    name = f"efficientnet_{options.variant}"
    theirs = timm_features(name, options.size)
    ours = our_backbone(theirs.state_dict(), name)
    assert isinstance(ours, EfficientNet)
    makers = {"timm": lambda: theirs, "torchvision": lambda: Torchvision(ours, options.variant).eval()}
    yield comparison(name, ours, makers, options)


def same_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    name = f"tf_efficientnet_{options.variant}"
    theirs = timm_features(name, options.size)
    yield comparison(name, our_backbone(theirs.state_dict(), name), {"timm": lambda: theirs}, options)


def smp_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    name = f"efficientnet-{options.variant}"
    theirs = smp_network(name, options.size)
    ours = our_segmenter(theirs, name).backbone
    yield comparison(name, ours, {"smp encoder": lambda: SmpEncoder(theirs.encoder)}, options)


def comparison(
    name: str, ours: Backbone, makers: dict[str, Callable[[], nn.Module]], options: argparse.Namespace
) -> Comparison:
    """Return ours beside each peer's network, in both layouts of memory."""
    images = normalised(options.batch, options.size).to(options.device)
    fused = side(fuse(ours).to(options.device), images, torch.channels_last, options)

    def peer(make: Callable[[], nn.Module], layout: torch.memory_format) -> Side:
        theirs = side(deepcopy(make()).to(options.device, memory_format=layout), images, layout, options)
        return Side(theirs.run, partial(same_maps, fused, theirs), theirs.figures)

    peers = {
        f"{title}{suffix}": partial(peer, make, layout)
        for title, make in makers.items()
        for suffix, layout in LAYOUTS.items()
    }
    title = f"{name} {options.size} x {options.batch}"
    return Comparison(title, fused, peers, seconds=seconds_on(options.device))


@torch.no_grad()
def side(network: nn.Module, images: Tensor, layout: torch.memory_format, options: argparse.Namespace) -> Side:
    images = images.contiguous(memory_format=layout)
    function, figures = prepared(network, images, options.mode)

    @torch.no_grad()
    def run() -> Sequence[Tensor]:
        return function(images)

    return Side(run, figures={**figures, **kernel_figures(run, options.device)})


def same_maps(ours: Side, theirs: Side) -> None:
    for level, (found, expected) in enumerate(zip(ours.run(), theirs.run(), strict=True)):
        assert found.shape == expected.shape, f"map {level} is {tuple(found.shape)}, and {tuple(expected.shape)}"
        off = float((found - expected).abs().max() / expected.abs().max())
        assert off < _EQUAL, f"map {level} differs by {off:.2g} of its largest value"


PARTS = {"symmetric": symmetric_comparisons, "same": same_comparisons, "smp": smp_comparisons}
