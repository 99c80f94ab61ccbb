"""A U-Net's forward pass, from pixels to logits, against segmentation_models_pytorch with the same weights.

Ours is fused for inference, takes pixels of 8 bits and normalises them; smp's is given normalised images, which is work
that it is spared.

float32: the logits must be the same. bfloat16: ours computes in bfloat16 from the normalised image on. Networks with
random weights keep little of it, so answers are held against each other loosely: our logits in float32 must be smp's,
and those in bfloat16 as near to them as smp's under autocast are.

--compiled compiles both sides with frozen weights, and reports the CPU seconds of that and in how many graphs it was
taken; --graph captures both in a CUDA graph.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.devices import add_device_options, autocast, kernel_figures, prepared, seconds_on
from benchmarks.measuring import Comparison, Side
from benchmarks.models import LAYOUTS, our_segmenter, pixels, smp_network
from densenet_suite.fusing import fuse

ROUNDS = 7
_EQUAL = 1e-4  # of the largest logit
_LOOSE = 1.25  # times as far off as smp's autocast our bfloat16 may be


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoders",
        nargs="+",
        default=["tu-tf_efficientnet_b0", "efficientnet-b0"],
        help="names of smp, one after the other",
    )
    parser.add_argument("--size", type=int, default=512, help="of the images, a multiple of 32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="sizes of batches, one after the other")
    add_device_options(parser, graph=True)


class Unet:
    """Ours, and smp's network with the same weights, on the same images."""

    def __init__(self, options: argparse.Namespace, encoder: str, batch: int):
        self.device, self.mode, self.encoder, self.size = options.device, options.mode, encoder, options.size
        self.theirs = smp_network(encoder, self.size).to(self.device)
        self.ours = our_segmenter(self.theirs, encoder).to(self.device)
        self.images = pixels(batch, self.size).to(self.device)
        self.normalised = self.ours.preprocess(self.images)
        self.title = f"U-Net {encoder} {self.size} x {batch}"

    @torch.no_grad()
    def side(self, dtype: torch.dtype) -> Side:
        """Return our side."""
        return self._side(fuse(self.ours, dtype), self.images, lambda: None)

    @torch.no_grad()
    def smp_side(self, check: Callable[[], None], layout: torch.memory_format, *, half: bool = False) -> Side:
        """Return smp's side."""
        model = smp_network(self.encoder, self.size).to(self.device, memory_format=layout)
        return self._side(model, self.normalised.contiguous(memory_format=layout), check, half=half)

    def check(self) -> None:
        """Hold our fused logits against smp's."""
        assert self._off(torch.float32, self.expected()) < _EQUAL, "logits differ by more than rounding"

    @torch.no_grad()
    def check_half(self) -> None:
        """Hold our logits in bfloat16 against smp's in float32, by how far smp's own are off under autocast."""
        self.check()
        expected = self.expected()
        with autocast(self.device, enabled=True):
            allowed = _largest_difference(self.theirs(self.normalised), expected)
        off = self._off(torch.bfloat16, expected)
        assert off < _LOOSE * allowed, f"logits in bfloat16 are {off:.0%} off those in float32, smp's {allowed:.0%}"

    @torch.no_grad()
    def expected(self) -> Tensor:
        """Return smp's logits in float32."""
        return self.theirs(self.normalised)

    @torch.no_grad()
    def _off(self, dtype: torch.dtype, expected: Tensor) -> float:
        return _largest_difference(fuse(self.ours, dtype)(self.images), expected)

    def _side(self, model: torch.nn.Module, images: Tensor, check: Callable[[], None], *, half: bool = False) -> Side:
        with autocast(self.device, enabled=half):
            network, figures = prepared(model, images, self.mode)

        @torch.no_grad()
        def run() -> Tensor:
            with autocast(self.device, enabled=half):
                return network(images)

        return Side(run, check, {**figures, **kernel_figures(run, self.device)})


def _largest_difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits.float() - expected).abs().max() / expected.abs().max())


def float32_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for unet in _unets(options):
        peers = {f"smp{name}": partial(unet.smp_side, unet.check, layout) for name, layout in LAYOUTS.items()}
        yield Comparison(f"{unet.title}, float32", unet.side(torch.float32), peers, seconds=seconds_on(options.device))


def bfloat16_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for unet in _unets(options):
        side = partial(unet.smp_side, unet.check_half)
        peers = {
            "smp float32": partial(side, torch.contiguous_format),
            "smp channels_last, bf16 autocast": partial(side, torch.channels_last, half=True),
        }
        name = f"{unet.title}, bfloat16"
        yield Comparison(name, unet.side(torch.bfloat16), peers, seconds=seconds_on(options.device))


def _unets(options: argparse.Namespace) -> Iterator[Unet]:
    for encoder in options.encoders:
        for batch in options.batches:
            yield Unet(options, encoder, batch)


PARTS = {"float32": float32_comparisons, "bfloat16": bfloat16_comparisons}
