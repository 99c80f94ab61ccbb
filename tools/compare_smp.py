"""Train the same U-Net through densenet_suite and through segmentation_models_pytorch, and compare scores and speed.

    python tools/compare_smp.py ours  configs/segment_membranes.yaml --root ../shared/data/isbi-em
    python tools/compare_smp.py smp   configs/segment_membranes.yaml --root ../shared/data/isbi-em
    python tools/compare_smp.py speed

`ours` trains by the config. `smp` trains smp.Unet over timm's EfficientNet-B0, from scratch, in a plain loop: the same
crops in the same order, the same number of steps, optimizer, learning rate, warm-up and clipping, smp's Dice loss and
PyTorch's cross-entropy. Both are scored on whole val images, in pixels of the files, by the same metric. `speed` runs
training steps and predictions of both in turn in one process, on the same weights, and prints the ratio of CPU times.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BACKBONE = "efficientnet_b0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "smp", "speed"])
    parser.add_argument("config", type=Path, nargs="?", help="a config of segmentation")
    parser.add_argument("overrides", nargs="*", help="changes of the form train.epochs=10")
    parser.add_argument("--root", type=Path, help="the dataset")
    parser.add_argument("--rounds", type=int, default=7, help="of speed")
    arguments = parser.parse_args()
    if arguments.side == "speed":
        compare_speed(arguments.rounds)
        return
    overrides = [f"data.root={arguments.root}", *arguments.overrides]
    started = time.process_time()
    train = train_ours if arguments.side == "ours" else train_smp
    train(arguments.config, overrides)
    print(f"{arguments.side}: {time.process_time() - started:.0f} CPU seconds in all")


def train_ours(path: Path, overrides: list[str]) -> None:
    """Train by the config."""
    from densenet_suite import train

    run = train(path, overrides)
    print((run.dir / "eval" / "val" / "metrics.json").read_text())
    print((run.dir / "eval" / "val" / "per_class.csv").read_text())


def train_smp(path: Path, overrides: list[str]) -> None:
    """Train smp.Unet in a plain loop on the batches of our data module."""
    import segmentation_models_pytorch as smp

    from densenet_suite.config.load import load_config
    from densenet_suite.segmentation.metric import SegmentationMetric
    from densenet_suite.training.segmentation import SEGMENTATION
    from densenet_suite.training.slice import recipe_of

    config: Any = load_config(path, overrides)
    torch.manual_seed(config.seed)
    data = SEGMENTATION.data(config, None)
    task = SEGMENTATION.task(config, data)  # for the pixel statistics and the number of bands
    preprocess, bands = task.model.preprocess, task.model.backbone.in_channels
    classes = data.classes
    model = smp.Unet(f"tu-{BACKBONE}", encoder_weights=None, in_channels=bands, classes=len(classes))
    loader = data.train_dataloader()
    recipe, total = recipe_of(config.train), config.train.epochs * len(loader)
    rate = recipe.lr_for(config.train.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=recipe.weight_decay)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    step, spent = 0, 0.0
    for epoch in range(config.train.epochs):
        loader.sampler.set_epoch(epoch)
        model.train()
        losses = []
        for batch in loader:
            started = time.process_time()
            for group in optimizer.param_groups:
                group["lr"] = rate * recipe.factor(step, len(loader), total)
            logits, masks = model(preprocess(batch.images)), batch.masks.long()
            loss = F.cross_entropy(logits, masks, ignore_index=255) + dice(logits, masks)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
            optimizer.step()
            step += 1
            losses.append(loss.item())
            spent += time.process_time() - started
        print(f"epoch {epoch + 1}/{config.train.epochs}  loss {statistics.mean(losses):.3f}", flush=True)
    model.eval()
    metric = SegmentationMetric(classes, boundary=True)
    with torch.no_grad():
        for batch in data.eval_dataloader("val"):
            probabilities = model(preprocess(batch.images)).softmax(1)
            resized = F.interpolate(probabilities, batch.masks.shape[-2:], mode="bilinear", align_corners=False)
            for i, index in enumerate(batch.indices.tolist()):
                metric.update(index, resized[i].argmax(0).to(torch.uint8), batch.masks[i])
    scores = metric.compute()
    print(json.dumps(scores.summary, indent=2))
    for name, values in scores.per_class.items():
        print(name, values)
    print(f"{step} steps, {spent / step:.2f} CPU seconds a step")


def compare_speed(rounds: int) -> None:
    """Compare a training step (256 px, batch 4) and a prediction (512 px) on the same weights, one thread."""
    import segmentation_models_pytorch as smp

    from densenet_suite import create_segmenter

    torch.set_num_threads(1)
    theirs = smp.Unet(f"tu-{BACKBONE}", encoder_weights=None, classes=2)
    path = Path("smp_unet.pt")
    torch.save(theirs.state_dict(), path)
    ours = create_segmenter("unet", num_classes=2, backbone=BACKBONE, weights=path, drop_path=0.0)
    path.unlink()
    for layout in (torch.contiguous_format, torch.channels_last):
        theirs.to(memory_format=layout)
        fast: nn.Module = ours.to(memory_format=torch.channels_last)
        for title, shape, work in (
            ("predict 512", (1, 3, 512, 512), _predict),
            ("train 4 x 256", (4, 3, 256, 256), _train_step),
        ):
            images = torch.randn(shape).to(memory_format=layout)
            segment: Callable[[Tensor], Tensor] = fast.segment
            theirs.eval(), fast.eval()
            with torch.no_grad():
                difference = (theirs(images) - segment(images)).abs().max().item()
            if difference > 1e-3:
                raise SystemExit(f"{title}: the two differ by {difference:.2g}, so there is nothing to compare")
            pairs = []
            for i in range(rounds + 1):
                sides = [(theirs, theirs), (fast, segment)]
                times = {}
                for model, function in sides[:: (-1) ** i]:
                    times[id(model)] = work(model, function, images)
                pairs.append(times[id(theirs)] / times[id(fast)])
            pairs = sorted(pairs[1:])
            name = "smp default" if layout == torch.contiguous_format else "smp channels_last"
            print(f"{title} against {name}: {pairs[0]:.2f} / {statistics.median(pairs):.2f} / {pairs[-1]:.2f} times")


def _predict(model: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor) -> float:
    model.eval()
    started = time.process_time()
    with torch.inference_mode():
        function(images)
    return time.process_time() - started


def _train_step(model: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor) -> float:
    model.train()
    masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.long)
    started = time.process_time()
    F.cross_entropy(function(images), masks).backward()
    spent = time.process_time() - started
    model.zero_grad()
    return spent


if __name__ == "__main__":
    main()
