"""Loss, assignment, post-processing, BiFPN and moving average, each alone, on inputs like those of a trained detector.

The loss (forward and backward), the assignment of anchors, the post-processing and the BiFPN are held against effdet's,
the moving average of weights against timm's.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.measuring import Comparison, Side
from benchmarks.models import LAYOUTS, effdet_network, normalised, objects, our_detector, outputs_of_trained, rows_of
from densenet_suite import create_detector
from densenet_suite.detection.anchors import OCTAVES, anchor_boxes
from densenet_suite.detection.loss import detection_loss
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import IGNORE, RawDetections
from densenet_suite.detection.variants import DETECTORS
from densenet_suite.fusing import fuse
from densenet_suite.training.averaging import EvaluationWeights

MODEL = "efficientdet_d0"
ROUNDS = 9


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=512, help="of the images, a multiple of 128")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=90)
    parser.add_argument("--objects", type=int, default=12, help="at most so many in an image")


@dataclass(frozen=True)
class Scene:
    """Outputs like those of a trained detector, and objects, for both sides."""

    raw: RawDetections
    boxes: Tensor
    labels: Tensor
    classes: int
    anchors: Any
    config: Any

    def maps(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return class logits and box deltas as effdet's heads write them, [b c h w] of each level."""
        heights = self.anchors.feat_sizes[self.anchors.min_level :]
        per_cell = len(self.anchors.aspect_ratios) * self.anchors.num_scales
        counts = [height * width * per_cell for height, width in heights]
        return tuple(
            [
                rows.unflatten(1, (*size, per_cell)).flatten(3).permute(0, 3, 1, 2).contiguous()
                for rows, size in zip(output.split(counts, 1), heights, strict=True)
            ]
            for output in self.raw[:2]
        )

    def targets(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return what effdet assigns."""
        from effdet.anchors import AnchorLabeler

        labeler = AnchorLabeler(self.anchors, self.classes)
        swapped, labels = self.boxes[..., [1, 0, 3, 2]], torch.where(self.labels == IGNORE, -1, self.labels + 1)
        return labeler.batch_label_anchors(swapped, labels)


def make_scene(options: argparse.Namespace) -> Scene:
    from effdet import get_efficientdet_config
    from effdet.anchors import Anchors

    config = get_efficientdet_config("tf_" + MODEL)
    config.update({"image_size": (options.size, options.size), "num_classes": options.classes})
    theirs = Anchors.from_config(config)
    sizes = theirs.feat_sizes[theirs.min_level :]
    ours = anchor_boxes((options.size, options.size), sizes, 4.0, DETECTORS[MODEL].aspects)
    torch.testing.assert_close(ours, theirs.boxes[:, [1, 0, 3, 2]], rtol=0, atol=0)
    assert len(ours) == OCTAVES * len(DETECTORS[MODEL].aspects) * sum(h * w for h, w in sizes)

    boxes, labels = objects(options.batch, options.size, options.objects, options.classes)
    raw = outputs_of_trained(ours, boxes, labels, options.classes)
    return Scene(raw, boxes, labels, options.classes, theirs, config)


def loss_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    from effdet.loss import DetectionLoss

    scene = make_scene(options)
    function, targets, maps = DetectionLoss(scene.config), scene.targets(), scene.maps()
    matches = match_anchors(scene.boxes, scene.labels, scene.raw.anchors)

    def ours() -> tuple[Tensor, Sequence[Tensor]]:
        outputs = [output.detach().requires_grad_() for output in scene.raw[:2]]
        with patch("densenet_suite.detection.loss.match_anchors", return_value=matches):
            total = detection_loss(RawDetections(*outputs, scene.raw.anchors), scene.boxes, scene.labels).total
        return total, torch.autograd.grad(total, outputs)

    def theirs() -> tuple[Tensor, Sequence[Tensor]]:
        outputs = [[level.detach().requires_grad_() for level in levels] for levels in maps]
        total = function(*outputs, *targets)[0]
        return total, torch.autograd.grad(total, outputs[0] + outputs[1])

    def check() -> None:
        (total, gradients), (expected, levels) = ours(), theirs()
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
        for gradient, maps_of_one in zip(gradients, (levels[: len(maps[0])], levels[len(maps[0]) :]), strict=True):
            wanted = rows_of(maps_of_one, gradient.shape[2])
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))

    yield Comparison("loss", Side(ours), {"effdet, forward and backward": lambda: Side(theirs, check)})


def assignment_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    scene = make_scene(options)

    def ours() -> Tensor:
        return match_anchors(scene.boxes, scene.labels, scene.raw.anchors)

    def check() -> None:
        matches = ours()
        labels = torch.where(matches == IGNORE, -1, scene.labels.gather(1, matches.clamp(min=0)))
        wanted = [level.flatten(1) for level in scene.targets()[0]]
        torch.testing.assert_close(labels, torch.cat(wanted, 1), rtol=0, atol=0)

    yield Comparison("assignment", Side(ours), {"effdet, encodes boxes as well": lambda: Side(scene.targets, check)})


def postprocess_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    from effdet.bench import _batch_detection, _post_process

    scene = make_scene(options)
    maps, postprocess = scene.maps(), Postprocess(score_threshold=0.0)
    levels, boxes = len(maps[0]), scene.anchors.boxes

    def ours() -> list[Any]:
        return postprocess(scene.raw)

    def theirs() -> Tensor:
        logits, deltas, anchors, classes = _post_process(*maps, levels, scene.classes, postprocess.max_candidates)
        return _batch_detection(len(logits), logits, deltas, boxes, anchors, classes, None, None, 100, False)

    def check() -> None:
        for found, rows in zip(ours(), theirs(), strict=True):
            torch.testing.assert_close(found.boxes, rows[:, :4], rtol=0, atol=1e-3)
            torch.testing.assert_close(found.scores, rows[:, 4], rtol=0, atol=1e-6)
            torch.testing.assert_close(found.labels + 1, rows[:, 5].long())

    yield Comparison("postprocess", Side(ours), {"effdet": lambda: Side(theirs, check)})


def bifpn_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    theirs = effdet_network(f"tf_{MODEL}", options.size)
    detector = our_detector(theirs, f"tf_{MODEL}")
    with torch.no_grad():
        maps = detector.backbone(normalised(options.batch, options.size))[-3:]
    fused, trained = fuse(detector).bifpn, detector.bifpn.train()
    upstream = [torch.randn_like(level) for level in fused(maps)]

    def work(network: nn.Module, layout: torch.memory_format) -> Callable[[], Sequence[Tensor]]:
        network.to(memory_format=layout)
        inputs, given = ([x.contiguous(memory_format=layout) for x in rows] for rows in (maps, upstream))
        return partial(differentiate, network, inputs, given) if network.training else partial(infer, network, inputs)

    for name, ours in (("bifpn, forward", fused), ("bifpn, forward and backward", trained)):
        own = work(ours, torch.channels_last)

        def effdet_side(layout: torch.memory_format, own: Any = own, training: bool = ours.training) -> Side:
            run = work(deepcopy(theirs.fpn).train(training), layout)
            return Side(run, lambda: same_tensors(own(), run()))

        peers = {f"effdet{suffix}": partial(effdet_side, layout) for suffix, layout in LAYOUTS.items()}
        yield Comparison(name, Side(own), peers)


@torch.no_grad()
def infer(network: nn.Module, maps: Sequence[Tensor]) -> Sequence[Tensor]:
    return network(list(maps))  # effdet's adds to the list that it is given


def differentiate(network: nn.Module, maps: Sequence[Tensor], upstream: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the outputs, and the gradients of the inputs; those of the weights are computed too."""
    inputs = [x.detach().requires_grad_() for x in maps]
    outputs = network(list(inputs))
    network.zero_grad()
    torch.autograd.backward(outputs, upstream)
    return [*(x.detach() for x in outputs), *(x.grad for x in inputs)]


def same_tensors(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Hold tensors against each other as a whole: of two cells that are all but equal, either can be the largest."""
    for found, expected in zip(ours, theirs, strict=True):
        off = float((found - expected).norm() / expected.norm())
        assert off < 1e-3, f"a map or gradient is {off:.2g} of its norm off"


def average_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    from timm.utils import ModelEmaV2, ModelEmaV3

    model = create_detector(MODEL, num_classes=options.classes, weights=None)
    decay = 0.9998
    for kind in (ModelEmaV2, ModelEmaV3):
        peer = kind(model, decay)
        average = EvaluationWeights(decay)
        trainer: Any = SimpleNamespace(global_step=0)
        module: Any = SimpleNamespace(model=model)
        average.on_train_start(trainer, module)
        average.updates = 10**9  # past the ramp

        def ours(average: Any = average, trainer: Any = trainer, module: Any = module) -> None:
            trainer.global_step += 1
            average.on_train_batch_end(trainer, module, None, None, 0)

        def theirs(peer: Any = peer) -> None:
            peer.update(model)

        def check(peer: Any = peer, average: Any = average, ours: Any = ours, theirs: Any = theirs) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.rand_like(parameter))
            ours()
            theirs()
            expected = dict(peer.module.named_parameters())
            torch.testing.assert_close(average.average, {k: v.detach() for k, v in expected.items()})

        yield Comparison("ema", Side(ours), {f"timm {kind.__name__}, buffers as well": lambda: Side(theirs, check)})


PARTS = {
    "loss": loss_comparisons,
    "assignment": assignment_comparisons,
    "postprocess": postprocess_comparisons,
    "bifpn": bifpn_comparisons,
    "ema": average_comparisons,
}
