"""Scores of a split from what is in memory: COCO average precision, and the counts behind IoU and Dice.

coco: objects and detections like those of COCO val2017, with crowd regions and images without objects. Ours is given a
data set and the detections of one image after the other, and runs on hotcoco ("coco") or on pycocotools ("reference");
the peers are spared the making of their inputs. pycocotools must agree to 1e-9 at every overlap, recall, class, size
and limit; torchmetrics rounds the boxes to float32, so its AP may be 1e-3 off. MiB are what one evaluation takes beyond
its inputs at its peak, in a fork of this process.

masks: the pixels of smooth regions by class, and by class of what a network may find there. Ours is given masks of 8
bits, one after the other as in validation; the peers get all of them at once, in 64 bits as in their documentation, and
torchmetrics also in 8. Where some pixels are not known, peers are told to leave them out, as ours always does. Every
count must be the same.
"""

import argparse

from benchmarks.box_scores import coco_comparisons, reference_comparisons
from benchmarks.mask_counts import exclusive_comparisons, overlapping_comparisons

ROUNDS = 3
PARTS = {
    "coco": coco_comparisons,
    "reference": reference_comparisons,
    "masks": exclusive_comparisons,
    "overlapping": overlapping_comparisons,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=5000, help="with boxes; pycocotools takes a minute for 5000")
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 6, 19], help="of masks, one after the other")
    parser.add_argument("--size", type=int, default=512, help="of masks")
    parser.add_argument("--batch", type=int, default=8, help="of masks")
