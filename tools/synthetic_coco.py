"""Make a COCO dataset of any size, to measure how long reading and checking takes.

    python tools/synthetic_coco.py /tmp/large --images 118000 --boxes 860000
    /usr/bin/time -v python tools/synthetic_coco.py /tmp/large --read

The pictures are hard links to a few small PNGs, so that the headers of all files are really read, and the folder takes
little room. The number of objects of a picture is geometric, as it roughly is in COCO; every number follows from the
seed.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((480, 640), (640, 480), (427, 640), (640, 427), (500, 375))  # height, width
LINKS = 30_000  # to one file; ext4 allows 65,000
CLASSES = 80


def make(root: Path, images: int, boxes: int, seed: int) -> None:
    """Write one training split."""
    rng = np.random.default_rng(seed)
    pictures = root / "images" / "train"
    pictures.mkdir(parents=True)
    (root / "annotations").mkdir()
    sizes = rng.integers(0, len(SIZES), images).tolist()
    sources: dict[int, Path] = {}
    linked = dict.fromkeys(range(len(SIZES)), LINKS)
    for i, size in enumerate(sizes):
        path = pictures / f"{i:012d}.png"
        if linked[size] == LINKS:
            Image.new("RGB", SIZES[size][::-1]).save(path)
            sources[size], linked[size] = path, 0
        else:
            os.link(sources[size], path)
            linked[size] += 1
    owners = np.sort(_owners(rng, images, boxes))
    corners, sides = rng.random((boxes, 2)) * 0.9, rng.random((boxes, 2)) ** 2
    shapes = np.array(SIZES)[np.array(sizes)[owners]][:, ::-1]
    origin = np.round(corners * shapes, 2)
    extent = np.maximum(1, np.round(np.minimum(sides, 0.98 - corners) * shapes, 2))
    labels = rng.integers(1, CLASSES + 1, boxes)
    content = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.png", "height": SIZES[size][0], "width": SIZES[size][1]}
            for i, size in enumerate(sizes)
        ],
        "annotations": [
            {"id": i, "image_id": owner, "category_id": label, "bbox": [*xy, *wh], "area": wh[0] * wh[1], "iscrowd": 0}
            for i, (owner, label, xy, wh) in enumerate(
                zip(owners.tolist(), labels.tolist(), origin.tolist(), extent.tolist(), strict=True), start=1
            )
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
    }
    with open(root / "annotations" / "instances_train.json", "w", encoding="utf-8") as file:
        json.dump(content, file)


def read(root: Path) -> None:
    """Find and read the split, as training does, and print what it took."""
    from densenet_suite.detection.coco_json import read_coco
    from densenet_suite.detection.layout import CocoFile, find_split

    wall, before = time.perf_counter(), time.process_time()
    files = find_split(root, "train")
    assert isinstance(files, CocoFile)
    dataset = read_coco("train", files.annotations, files.images)
    wall, processor = time.perf_counter() - wall, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(dataset.describe())
    print(f"read in {processor:.1f} CPU seconds ({wall:.1f} s by the clock); peak {peak:.2f} GiB with all imports")


def _owners(rng: np.random.Generator, images: int, boxes: int) -> np.ndarray:
    weights = rng.geometric(images / (images + boxes), images) - 1.0
    return rng.choice(images, boxes, p=weights / weights.sum())


def main() -> None:
    """Make a dataset, or read one."""
    parser = argparse.ArgumentParser(description="Make a large synthetic COCO dataset, or read it.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", action="store_true", help="read what is there")
    given = parser.parse_args()
    if given.read:
        read(given.root)
    else:
        make(given.root, given.images, given.boxes, given.seed)


if __name__ == "__main__":
    main()
