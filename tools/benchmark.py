"""Measure this package against its peers: both sides in turn in one process, on the same inputs, one thread.

    python tools/benchmark.py parts
    python tools/benchmark.py parts --only loss assignment --batch 8 --json parts.jsonl
    python tools/benchmark.py data

`parts` runs the loss (forward and backward), the assignment of anchors and the post-processing against effdet, and the
moving average of weights against timm's. Each pair is checked first, and a pair whose sides give different answers is
not reported and makes the exit code 1; a pair whose peer is not installed is skipped.

`data` runs loading, from files to batches of augmented samples, against effdet's and torchvision's, and with a cache
against itself without one; see `data_pairs.py`.

Times are CPU times of the process, for one call or sample. Absolute times waver with the neighbours of a shared
machine; a ratio does not, as each is one of a pair that ran within the same second. In every round another side begins.
Where the peer does more than is compared, the row says so.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from data_pairs import DATA_PAIRS, DEFAULT_DATA
from pairs import Pair, measure_all
from torch import Tensor

from densenet_suite import create_detector
from densenet_suite.detection.anchors import OCTAVES, anchor_boxes
from densenet_suite.detection.boxes import box_iou
from densenet_suite.detection.loss import detection_loss
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import IGNORE, RawDetections
from densenet_suite.detection.variants import DETECTORS
from densenet_suite.training.averaging import EvaluationWeights

MODEL = "efficientdet_d0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    parts = commands.add_parser("parts", help="loss, assignment, post-processing and moving average, each alone")
    parts.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parts.add_argument("--size", type=int, default=512, help="of the images, a multiple of 128")
    parts.add_argument("--batch", type=int, default=2)
    parts.add_argument("--classes", type=int, default=90)
    parts.add_argument("--objects", type=int, default=12, help="at most so many in an image")
    parts.add_argument("--rounds", type=int, default=9)
    parts.add_argument("--json", type=Path, help="file to which the rows are added; without it they are printed")
    data = commands.add_parser("data", help="pictures on disk to batches of augmented samples, and the cache")
    data.add_argument("--only", nargs="+", choices=sorted(DATA_PAIRS), default=list(DATA_PAIRS))
    data.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of a COCO dataset of JPEGs")
    data.add_argument("--size", type=int, default=512, help="of the samples")
    data.add_argument("--batch", type=int, default=16)
    data.add_argument("--scale", type=float, nargs=2, default=(0.1, 2.0), help="relative to what just fits")
    data.add_argument("--rounds", type=int, default=5)
    data.add_argument("--json", type=Path, help="file to which the rows are added; without it they are printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # effdet's torch.jit.script
    rows, agree = measure_all(PAIRS[options.command], options)
    lines = [json.dumps(row) for row in rows]
    if options.json is None:
        print("\n" + "\n".join(lines))
    else:
        with options.json.open("a") as file:
            file.writelines(line + "\n" for line in lines)
    sys.exit(0 if agree else 1)


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

    generator = torch.Generator().manual_seed(0)
    config = get_efficientdet_config("tf_" + MODEL)
    config.update({"image_size": (options.size, options.size), "num_classes": options.classes})
    theirs = Anchors.from_config(config)
    sizes = theirs.feat_sizes[theirs.min_level :]
    ours = anchor_boxes((options.size, options.size), sizes, 4.0, DETECTORS[MODEL].aspects)
    torch.testing.assert_close(ours, theirs.boxes[:, [1, 0, 3, 2]], rtol=0, atol=0)
    assert len(ours) == OCTAVES * len(DETECTORS[MODEL].aspects) * sum(h * w for h, w in sizes)

    shape = (options.batch, options.objects)
    centres = torch.rand(*shape, 2, generator=generator) * options.size
    sides = options.size * 0.12 * torch.randn(*shape, 2, generator=generator).mul(0.8).exp()
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], 2).clamp(0, options.size)
    labels = torch.randint(options.classes, shape, generator=generator)
    some = torch.randint(1, options.objects + 1, (options.batch, 1), generator=generator)
    labels = torch.where(torch.arange(options.objects) < some, labels, IGNORE)
    boxes = torch.where(labels[..., None] == IGNORE, 0.0, boxes)
    boxes, labels = boxes[:, : some.max()], labels[:, : some.max()]  # as a batch is padded

    logits = torch.randn(options.batch, len(ours), options.classes, generator=generator) * 0.8 - 6.5
    for image, row in (labels != IGNORE).nonzero().tolist():
        iou = box_iou(boxes[image, row][None], ours)[0]
        near = iou > 0.3
        noise = torch.randn(int(near.sum()), generator=generator) / 2
        logits[image, near, labels[image, row]] = 10 * iou[near] - 5 + noise
    deltas = torch.randn(options.batch, len(ours), 4, generator=generator) * 0.1
    return Scene(RawDetections(logits, deltas, ours), boxes, labels, options.classes, theirs, config)


def loss_pairs(options: argparse.Namespace) -> Iterator[Pair]:
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
            wanted = flat(maps_of_one, gradient.shape[2])
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))

    yield Pair("loss", "effdet, forward and backward", ours, theirs, check)


def assignment_pairs(options: argparse.Namespace) -> Iterator[Pair]:
    scene = make_scene(options)

    def ours() -> Tensor:
        return match_anchors(scene.boxes, scene.labels, scene.raw.anchors)

    def check() -> None:
        matches = ours()
        labels = torch.where(matches == IGNORE, -1, scene.labels.gather(1, matches.clamp(min=0)))
        wanted = [level.flatten(1) for level in scene.targets()[0]]
        torch.testing.assert_close(labels, torch.cat(wanted, 1), rtol=0, atol=0)

    yield Pair("assignment", "effdet, encodes boxes as well", ours, scene.targets, check)


def postprocess_pairs(options: argparse.Namespace) -> Iterator[Pair]:
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

    yield Pair("postprocess", "effdet", ours, theirs, check)


def average_pairs(options: argparse.Namespace) -> Iterator[Pair]:
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

        yield Pair("ema", f"timm {kind.__name__}, buffers as well", ours, theirs, check)


def flat(levels: Sequence[Tensor], columns: int) -> Tensor:
    """Return [b n columns] of maps [b c h w]."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, columns) for level in levels], 1)


PARTS = {
    "loss": loss_pairs,
    "assignment": assignment_pairs,
    "postprocess": postprocess_pairs,
    "ema": average_pairs,
}


PAIRS = {"parts": PARTS, "data": DATA_PAIRS}

if __name__ == "__main__":
    main()
