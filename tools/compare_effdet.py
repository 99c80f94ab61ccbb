"""Train the same detector through densenet_suite and through effdet's own classes, and compare the scores.

    python tools/compare_effdet.py ours   --root ../shared/data/bccd
    python tools/compare_effdet.py effdet --root ../shared/data/bccd

Both train EfficientDet-D0 from scratch on the same images for the same number of steps with the same optimizer,
learning rate, warm-up, clipping, anchors and range of scales, and are scored on val by the same evaluator. `effdet`
uses effdet's parser, dataset, transforms, collation, training bench and loss, and timm's average of the weights with
its warm-up; its score is the better one of averaged and latest weights.
"""

import argparse
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIZE, BATCH, EPOCHS, WARMUP, ANCHOR_SCALE = 256, 8, 40, 2.5, 2.0
LR, DECAY, CLIP, EMA, SCALE = 0.02, 1e-2, 10.0, 0.998, (0.6, 1.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "effdet"])
    parser.add_argument("--root", type=Path, required=True, help="BCCD in COCO format")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.process_time()
    train = train_ours if arguments.side == "ours" else train_effdet
    train(arguments.root, arguments.epochs, arguments.seed)
    print(f"{arguments.side}: {time.process_time() - started:.0f} CPU seconds")


def train_ours(root: Path, epochs: int, seed: int) -> None:
    """Train by the recipe in configs/, which holds the same numbers."""
    from densenet_suite import train

    config = Path(__file__).parents[1] / "configs" / "detect_bccd_d0.yaml"
    run = train(config, [f"data.root={root}", f"train.epochs={epochs}", f"seed={seed}"])
    print((run.dir / "eval" / "val" / "metrics.json").read_text())
    print((run.dir / "eval" / "val" / "per_class.csv").read_text())


def train_effdet(root: Path, epochs: int, seed: int) -> None:
    """Train by effdet's classes in a plain loop."""
    import effdet
    from effdet.bench import DetBenchTrain
    from effdet.data.loader import DetectionFastCollate
    from effdet.data.transforms import Compose, ImageToNumpy, RandomFlip, RandomResizePad, resolve_fill_color
    from timm.optim import param_groups_weight_decay
    from timm.utils import ModelEmaV3

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    fill = resolve_fill_color("mean")
    augment = Compose(
        [
            RandomFlip(horizontal=True, prob=0.5),
            RandomResizePad(target_size=SIZE, scale=SCALE, interpolation="bilinear", fill_color=fill),
            ImageToNumpy(),
        ]
    )
    dataset = _effdet_dataset(root, "train", augment)
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, collate_fn=DetectionFastCollate()
    )
    settings = effdet.get_efficientdet_config("efficientdet_d0")
    settings.image_size = (SIZE, SIZE)
    settings.num_classes = 3
    settings.anchor_scale = ANCHOR_SCALE
    bench = DetBenchTrain(effdet.EfficientDet(settings, pretrained_backbone=False))
    # the rate of ours: for a batch of 64, scaled by the square root
    rate = LR * math.sqrt(BATCH / 64)
    optimizer = torch.optim.AdamW(param_groups_weight_decay(bench, DECAY), lr=rate)
    average = ModelEmaV3(bench, decay=EMA, use_warmup=True)
    total, warmup = epochs * len(loader), round(WARMUP * len(loader))
    step = 0
    for epoch in range(epochs):
        bench.train()
        losses = []
        for images, target in loader:
            factor = (step + 1) / (warmup + 1) if step < warmup else _cosine((step - warmup) / (total - warmup))
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            loss = bench(_normalized(images), target)["loss"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bench.parameters(), CLIP)
            optimizer.step()
            step += 1
            average.update(bench, step=step)
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}  loss {np.mean(losses):.3f}", flush=True)
    for title, model in (("averaged weights", average.module), ("latest weights", bench)):
        print(title, score_effdet(root, model))


def score_effdet(root: Path, bench: Any) -> dict[str, Any]:
    """Score an effdet bench on val with our evaluator."""
    from effdet.data.loader import DetectionFastCollate
    from effdet.data.transforms import transforms_coco_eval

    from densenet_suite import DetectionData
    from densenet_suite.detection.metric import CocoEvaluator
    from densenet_suite.detection.structures import Detections

    truth = DetectionData(root, (SIZE, SIZE), BATCH).split("val")
    index_of = {image.path.name: i for i, image in enumerate(truth.images)}
    dataset = _effdet_dataset(root, "val", transforms_coco_eval(SIZE, use_prefetcher=True))
    loader = torch.utils.data.DataLoader(dataset, BATCH, collate_fn=DetectionFastCollate())
    evaluator = CocoEvaluator(truth)
    bench.eval()
    with torch.no_grad():
        for images, target in loader:
            for i, found in enumerate(bench(_normalized(images), target)["detections"]):
                name = dataset.parser.img_infos[int(target["img_idx"][i])]["file_name"]
                found = found[found[:, 4] > 0.001]
                evaluator.update(index_of[name], Detections(found[:, :4], found[:, 4], found[:, 5].long() - 1))
    scores = evaluator.compute()
    return scores.summary | {name: values["AP50"] for name, values in scores.per_class.items()}


def _effdet_dataset(root: Path, split: str, transform: Any) -> Any:
    from effdet.data.dataset import DetectionDatset
    from effdet.data.parsers import CocoParserCfg, create_parser

    settings = CocoParserCfg(ann_filename=str(root / "annotations" / f"instances_{split}.json"))
    return DetectionDatset(root / "images" / split, create_parser("coco", cfg=settings), transform=transform)


def _normalized(images: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255
    return (images.float() - mean) / deviation


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


if __name__ == "__main__":
    main()
