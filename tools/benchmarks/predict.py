"""A detector's forward pass and post-processing, against effdet's DetBenchPredict, with the same weights.

Ours is fused for inference, takes pixels of 8 bits and normalises them; effdet is given normalised images, which is
work that it is spared. Both return the best 100 boxes of each image, cut off at its edges.

float32: the detections must be the same, but for rounding. bfloat16: ours computes in bfloat16 from the normalised
image on. Networks with random weights keep little of it, so answers are held against each other loosely: our detections
in float32 must be effdet's, and our logits in bfloat16 as near to those in float32 as effdet's under autocast are.

--compiled compiles the network of both sides with frozen weights, and reports the CPU seconds of that and in how many
graphs it was taken; post-processing stays as it is. --graph captures the network of both sides in a CUDA graph.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.devices import add_device_options, autocast, kernel_figures, prepared, seconds_on
from benchmarks.measuring import Comparison, Side
from benchmarks.models import LAYOUTS, effdet_network, our_detector, pixels, rows_of
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import Detections
from densenet_suite.detection.variants import detector_spec
from densenet_suite.fusing import fuse

ROUNDS = 5
_AT_THE_LIMIT = 0.02  # of the boxes: so many may overlap by all but exactly as much as suppresses them
_LOOSE = 1.25  # times as far off as effdet's autocast our bfloat16 may be


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tf_efficientdet_d0")
    parser.add_argument("--size", type=int, help="of the images, a multiple of 128; the model's own by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="sizes of batches, one after the other")
    add_device_options(parser, graph=True)


class Detector:
    """Ours, and effdet's network with the same weights, on the same images."""

    def __init__(self, options: argparse.Namespace, batch: int):
        self.device, self.mode = options.device, options.mode
        self.size = options.size or detector_spec(options.model).size
        self.theirs = effdet_network(options.model, self.size).to(self.device)
        self.ours = our_detector(self.theirs, options.model).to(self.device)
        self.images = pixels(batch, self.size).to(self.device)
        # scores are not cut off, as effdet's are not
        self.postprocess = Postprocess(score_threshold=0.0)
        self.sizes = torch.tensor([[self.size, self.size]] * batch, dtype=torch.float32, device=self.device)

    def side(self, dtype: torch.dtype) -> Side:
        """Return our side."""
        with torch.no_grad():
            network, figures = prepared(fuse(self.ours, dtype), self.images, self.mode)

        @torch.no_grad()
        def run() -> list[Detections]:
            return self.postprocess(network(self.images), self.sizes)

        return Side(run, figures={**figures, **kernel_figures(run, self.device)})

    def effdet_side(self, check: Callable[[Tensor], None], layout: torch.memory_format, *, half: bool = False) -> Side:
        """Return effdet's side; `check` is given its detections [b n 6]."""
        from effdet import DetBenchPredict

        model = effdet_network(self.theirs.config.name, self.size).to(self.device, memory_format=layout)
        bench = DetBenchPredict(model).to(self.device).eval()
        images = self.ours.preprocess(self.images).contiguous(memory_format=layout)
        info = {"img_scale": torch.ones(len(images), device=self.device), "img_size": self.sizes.flip(1)}
        with torch.no_grad(), autocast(self.device, enabled=half):
            bench.model, figures = prepared(model, images, self.mode)

        @torch.no_grad()
        def run() -> Tensor:
            with autocast(self.device, enabled=half):
                return bench(images, info)

        return Side(run, lambda: check(run()), {**figures, **kernel_figures(run, self.device)})


def float32_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for batch in options.batches:
        detector = Detector(options, batch)
        ours = detector.side(torch.float32)
        check = partial(_compare, ours)
        peers = {f"effdet{name}": partial(detector.effdet_side, check, layout) for name, layout in LAYOUTS.items()}
        name = f"{options.model} {detector.size} x {batch}, float32"
        yield Comparison(name, ours, peers, seconds=seconds_on(options.device))


def _compare(ours: Side, theirs: Tensor) -> None:
    same_detections(ours.run(), theirs)


def bfloat16_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for batch in options.batches:
        detector = Detector(options, batch)
        ours = detector.side(torch.bfloat16)
        peers = {
            "effdet float32": partial(_half_side, detector, torch.contiguous_format, half=False),
            "effdet channels_last, bf16 autocast": partial(_half_side, detector, torch.channels_last, half=True),
        }
        name = f"{options.model} {detector.size} x {batch}, bfloat16"
        yield Comparison(name, ours, peers, seconds=seconds_on(options.device))


def _half_side(detector: Detector, layout: torch.memory_format, *, half: bool) -> Side:
    side = detector.effdet_side(lambda found: None, layout, half=half)
    return Side(side.run, partial(_check_half, detector), side.figures)


@torch.no_grad()
def _check_half(detector: Detector) -> None:
    reduced, exact = (fuse(detector.ours, dtype)(detector.images) for dtype in (torch.bfloat16, torch.float32))
    found = detector.postprocess(exact, detector.sizes)
    detector.effdet_side(lambda theirs: same_detections(found, theirs), torch.contiguous_format).check()
    with autocast(detector.device, enabled=True):
        peer = detector.theirs(detector.ours.preprocess(detector.images))
    for name, ours, right, maps in zip(exact._fields, reduced, exact, peer, strict=False):
        theirs = rows_of(maps, right.shape[2])
        off, allowed = ((values.float() - right).std() / right.std() for values in (ours, theirs))
        assert off < _LOOSE * allowed, f"{name} in bfloat16 are {off:.0%} off those in float32, effdet's {allowed:.0%}"


def same_detections(ours: list[Detections], theirs: Tensor) -> None:
    """Hold detections against rows of (box, score, class counted from 1).

    Boxes of which nothing is left within the image are rows of effdet's, and ours has the next best in their place.

    Raises:
        AssertionError: they differ by more than rounding; where scores are equal but for rounding, order is free.
    """
    for image, (found, rows) in enumerate(zip(ours, theirs, strict=True)):
        rows = rows[(rows[:, 4] > 0) & (rows[:, 2:4] > rows[:, :2]).all(1)]
        assert len(found.scores) >= len(rows) > 0, f"image {image} has {len(found.scores)} detections, and {len(rows)}"
        torch.testing.assert_close(found.scores[: len(rows)], rows[:, 4], rtol=1e-3, atol=1e-5)
        apart = (found.boxes[:, None] - rows[None, :, :4]).abs().amax(2)
        apart = torch.where(found.labels[:, None] + 1 == rows[None, :, 5], apart, torch.inf)
        alone = int((apart.amin(0) > 0.1).sum())
        assert alone <= _AT_THE_LIMIT * len(rows), f"image {image}: {alone} of {len(rows)} boxes are not among ours"


PARTS = {"float32": float32_comparisons, "bfloat16": bfloat16_comparisons}
