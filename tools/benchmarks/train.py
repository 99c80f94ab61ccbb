"""A training step: forward, loss, backward, optimizer; on the same weights, images and objects.

`detection` is held against effdet's DetBenchTrain, which assigns anchors as ours does; `segmentation` against smp.Unet,
with the same cross-entropy on both sides. Ours takes pixels of 8 bits and normalises them; peers are given normalised
images, which is work that they are spared. All train by SGD with momentum: ours as Recipe builds it, peers by torch's
default. The learning rate is 0, so that every step is the same one. Averaging of weights is no part of it.

The loss and the norm of its gradient must be the same. `saved MiB` is what the forward pass keeps for the backward
pass, weights and buffers left out; `operations` are those that PyTorch dispatches in a step, without views and
allocations (our loss takes logits piece by piece on a CPU, and in a few operations elsewhere).

--compiled compiles the network of both sides, reports the CPU seconds of that and in how many graphs it was taken, and
leaves the operations out; --autocast is bfloat16 on all sides, in which answers are held against each other loosely.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.counting import operations, saved_mib
from benchmarks.devices import add_device_options, autocast, compile_figures, kernel_figures, seconds_on
from benchmarks.measuring import Comparison, Side
from benchmarks.models import (
    CLASSES,
    LAYOUTS,
    MASK_CLASSES,
    effdet_network,
    objects,
    our_detector,
    our_segmenter,
    pixels,
    smp_network,
)
from densenet_suite import Segmenter
from densenet_suite.detection.loss import detection_loss
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.structures import IGNORE
from densenet_suite.detection.variants import detector_spec
from densenet_suite.optim import Recipe

ROUNDS = 4
_EQUAL = {"loss": 1e-4, "gradient": 1e-2}  # relative
_LOOSE = {"loss": 0.1, "gradient": 1.0}  # under autocast
OBJECTS = 8  # in an image


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tf_efficientdet_d0", help="of detection")
    parser.add_argument("--encoder", default="tu-tf_efficientnet_b0", help="of segmentation, a name of smp")
    parser.add_argument("--size", type=int, help="of the images; the model's own, or 256 for segmentation")
    parser.add_argument("--batch", type=int, help="2 for detection and 4 for segmentation by default")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 autocast on all sides")
    add_device_options(parser, graph=False)


@dataclass(frozen=True)
class Step:
    """A training step of one side: the network, what computes the loss, and the optimizer."""

    network: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer
    autocast: bool
    device: str

    def __call__(self) -> None:
        """Train once."""
        self.forward().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forward(self) -> Tensor:
        """Return the loss."""
        with autocast(self.device, enabled=self.autocast):
            return self.loss()

    def answer(self) -> dict[str, float]:
        """Return the loss, and the norm of its gradient."""
        loss = self.forward()
        loss.backward()
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.optimizer.zero_grad()
        return {"loss": loss.item(), "gradient": norm.item()}


class Setting:
    """What the sides of a comparison share: images, and how they run."""

    def __init__(self, name: str, ours: EfficientDet | Segmenter, batch: int, size: int, options: argparse.Namespace):
        self.device, self.autocast, self.compiled = options.device, options.autocast, options.mode == "compiled"
        self.title = f"{name} {size} x {batch}, {'bf16 autocast' if self.autocast else 'float32'}"
        self.images = pixels(batch, size).to(self.device)
        self.normalised = ours.to(self.device).preprocess(self.images)

    def network(self, model: nn.Module, layout: torch.memory_format) -> nn.Module:
        """Return a model in training, as it is to run."""
        model.to(self.device, memory_format=layout).train()
        return torch.compile(model, dynamic=False) if self.compiled else model

    def step(self, model: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Step:
        """Return a step."""
        return Step(model, loss, optimizer, self.autocast, self.device)

    def side(self, step: Step, check: Callable[[], None] = lambda: None) -> Side:
        """Return a side, with its counts."""
        figures: dict[str, float] = compile_figures(step) if self.compiled else {"operations": operations(step)}
        figures["saved MiB"] = saved_mib(step.forward, step.network)
        return Side(step, check, figures | kernel_figures(step, self.device))

    def peer(self, step: Step, ours: Step) -> Side:
        """Return the side of a peer."""
        return self.side(step, partial(same_answer, ours, step, _LOOSE if self.autocast else _EQUAL))

    def comparison(self, ours: Step, peer: Callable[[torch.memory_format], Step], name: str) -> Comparison:
        """Return ours beside the peer in both layouts of memory."""

        def side(layout: torch.memory_format) -> Side:
            return self.peer(peer(layout), ours)

        peers = {f"{name}{suffix}": partial(side, layout) for suffix, layout in LAYOUTS.items()}
        return Comparison(self.title, self.side(ours), peers, seconds=seconds_on(self.device))


def same_answer(ours: Step, theirs: Step, allowed: Mapping[str, float]) -> None:
    """Hold loss and gradient of two sides against each other."""
    found, expected = ours.answer(), theirs.answer()
    for name, value in expected.items():
        off = abs(found[name] - value) / abs(value)
        assert off < allowed[name], f"the {name} is {found[name]:.6g}, and {value:.6g}"


def detection_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    size, batch = options.size or detector_spec(options.model).size, options.batch or 2
    ours = our_detector(effdet_network(options.model, size), options.model)
    setting = Setting(options.model, ours, batch, size, options)
    boxes, labels = (rows.to(setting.device) for rows in objects(batch, size, OBJECTS, CLASSES))
    target = {"bbox": boxes[..., [1, 0, 3, 2]], "cls": torch.where(labels == IGNORE, -1, labels + 1)}
    network = setting.network(ours, torch.channels_last)
    step = setting.step(
        ours, lambda: detection_loss(network(setting.images), boxes, labels).total, our_optimizer(ours, batch)
    )

    def effdet_step(layout: torch.memory_format) -> Step:
        from effdet import DetBenchTrain

        model = effdet_network(options.model, size)
        bench = DetBenchTrain(model, create_labeler=True).to(setting.device).train()
        bench.model = setting.network(model, layout)
        images = setting.normalised.contiguous(memory_format=layout)
        return setting.step(model, lambda: bench(images, target)["loss"], default_optimizer(model))

    yield setting.comparison(step, effdet_step, "effdet")


def segmentation_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    size, batch = options.size or 256, options.batch or 4
    ours = our_segmenter(smp_network(options.encoder, size), options.encoder)
    setting = Setting(f"U-Net {options.encoder}", ours, batch, size, options)
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(MASK_CLASSES, (batch, size, size), generator=generator).to(setting.device)
    network = setting.network(ours, torch.channels_last)
    step = setting.step(ours, lambda: F.cross_entropy(network(setting.images), masks), our_optimizer(ours, batch))

    def smp_step(layout: torch.memory_format) -> Step:
        model = smp_network(options.encoder, size)
        theirs = setting.network(model, layout)
        images = setting.normalised.contiguous(memory_format=layout)
        return setting.step(model, lambda: F.cross_entropy(theirs(images), masks), default_optimizer(model))

    yield setting.comparison(step, smp_step, "smp")


def our_optimizer(model: nn.Module, batch: int) -> torch.optim.Optimizer:
    return Recipe(lr=0.0).build(model, batch)


def default_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=4e-5)


PARTS = {"detection": detection_comparisons, "segmentation": segmentation_comparisons}
