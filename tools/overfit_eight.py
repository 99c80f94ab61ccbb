"""Learn eight real pictures by heart: the shortest proof that a detector learns from its labels.

    python tools/overfit_eight.py --root ../shared/data/coco-mini

EfficientDet-D0 from scratch at 256 px on the first eight pictures of a COCO-format set that have objects, without any
random change. Prints the AP50 on the same pictures, and the CPU minutes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from densenet_suite import DetectionData, evaluate, train

CONFIG = Path(__file__).parents[1] / "configs" / "detect_coco_d0.yaml"
UNCHANGED = ["augment.flip=0", "augment.scale=[1,1]", "augment.brightness=0", "augment.contrast=0"]
UNCHANGED += ["augment.saturation=0", "augment.hue=0", "model.drop_path=0"]
SCHEDULE = ["train.batch=8", "train.warmup_epochs=10", "train.ema=0", "train.recalibrate=8", "data.size=256"]
SCHEDULE += ["train.optimizer.name=adamw", "train.optimizer.lr=0.03"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="dataset in COCO format")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        data = eight_pictures(arguments.root, Path(folder))
        steps = [f"train.epochs={arguments.steps}", f"trainer.check_val_every_n_epoch={arguments.steps}"]
        run = train(CONFIG, [f"data.root={data}", f"output={folder}", *UNCHANGED, *SCHEDULE, *steps])
        scores = evaluate(run.dir, split="train")
    minutes = (time.process_time() - started) / 60
    print(f"AP50 {100 * scores['AP50']:.1f} after {arguments.steps} steps of 8 pictures, {minutes:.1f} CPU minutes")


def eight_pictures(root: Path, folder: Path) -> Path:
    """Write a dataset of the first eight pictures that have objects, as train and as val."""
    source = DetectionData(root, (256, 256), 1).split("train")
    entries = [image for image in source.images if (~image.objects.crowd).any()][:8]
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    annotations = []
    for image in entries:
        (folder / "images" / image.path.name).symlink_to(image.path.resolve())
        for i, (x1, y1, x2, y2) in enumerate(image.objects.boxes.tolist()):
            label = int(image.objects.labels[i])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": int(image.objects.crowd[i]),
                }
            )
    used = {annotation["category_id"] for annotation in annotations}
    content = {
        "images": [{"id": i.id, "file_name": i.path.name, "height": i.height, "width": i.width} for i in entries],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(source.classes.names, 1) if k in used],
    }
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


if __name__ == "__main__":
    main()
