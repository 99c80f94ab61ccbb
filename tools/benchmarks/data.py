"""Pictures on disk to batches of augmented samples: this package's loading against effdet's and torchvision's.

Each side runs its own dataset, transforms and collation over the same files in one process: read, decode, mirror half
of them, scale them to 0.1 to 2 times what just fits, crop or pad to a square, and batch them as 8 bits with boxes.
Scale and crop are drawn anew in every pass. effdet's transforms leave colours alone, and resize half of the pictures
bilinearly and half bicubically; ours are bilinear, so there is a row with effdet's made so too.

The check holds what is not random against each other: at a fixed scale and without changes all sides see the same
objects, of the same size, on pictures of the same colours.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from benchmarks.measuring import Comparison, Side
from densenet_suite.augment.policy import AugmentPolicy
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.samples import DetectionSamples, collate
from densenet_suite.pixel_cache import DiskCache, PixelCache, RamCache
from densenet_suite.sampling import SampleKey

FILL = (124, 116, 104)
COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}
STILL = (1.0, 1.0)
Batches = Iterator[tuple[Tensor, list[Tensor]]]  # pictures [b 3 h w], boxes xyxy [n 4] of each


@dataclass(frozen=True)
class Files:
    """The pictures of a COCO dataset, all splits together, in one annotation file."""

    annotations: Path
    images: Path
    count: int

    @classmethod
    def find(cls, root: Path, folder: Path) -> "Files":
        """Merge the splits, into a file in `folder`."""
        merged: dict[str, list[Any]] = {"images": [], "annotations": []}
        for file in sorted((root / "annotations").glob("instances_*.json")):
            content = json.loads(file.read_text())
            split = file.stem.removeprefix("instances_")
            merged["categories"] = content["categories"]
            merged["images"] += [image | {"file_name": f"{split}/{image['file_name']}"} for image in content["images"]]
            merged["annotations"] += content["annotations"]
        merged["images"].sort(key=lambda image: image["id"])  # as effdet reads them
        for number, annotation in enumerate(merged["annotations"], start=1):
            annotation["id"] = number
        path = folder / "annotations.json"
        path.write_text(json.dumps(merged))
        return cls(path, root / "images", len(merged["images"]))


class Ours:
    """This package."""

    def __init__(self, files: Files, options: argparse.Namespace, *, colours: bool, cache: PixelCache | None = None):
        self.source = read_coco("all", files.annotations, files.images)
        self.options, self.colours, self.cache = options, colours, cache
        self.epoch = 0

    @cached_property
    def samples(self) -> DetectionSamples:
        """The samples, made on first use."""
        policy = AugmentPolicy(flip=0.5, scale=scale_of(self.options), **(COLOURS if self.colours else {}))
        return self._samples(policy)

    def __call__(self) -> None:
        """Make all batches of an epoch."""
        self.epoch += 1
        for start in range(0, len(self.source), self.options.batch):
            numbers = range(start, min(start + self.options.batch, len(self.source)))
            collate([self.samples[SampleKey(self.epoch, number)] for number in numbers])

    def still(self) -> Batches:
        """Return the pictures one by one, at a fixed scale."""
        samples = self._samples(AugmentPolicy(scale=STILL))
        for number in range(len(self.source)):
            batch = collate([samples[SampleKey(0, number)]])
            yield batch.images, [batch.boxes[0]]

    def _samples(self, policy: AugmentPolicy) -> DetectionSamples:
        return DetectionSamples(self.source, (self.options.size,) * 2, 3, FILL, policy, 0, cache=self.cache)


class Effdet:
    """effdet's parser, dataset, training transforms and collation."""

    def __init__(self, files: Files, options: argparse.Namespace, interpolation: str):
        from effdet.data import DetectionDatset
        from effdet.data.loader import DetectionFastCollate
        from effdet.data.parsers import CocoParserCfg, create_parser
        from effdet.data.transforms import ImageToNumpy, RandomResizePad, transforms_coco_train

        with redirect_stdout(StringIO()):
            parser = create_parser("coco", cfg=CocoParserCfg(files.annotations, ignore_empty_gt=False, min_img_size=1))
        self.dataset = DetectionDatset(files.images, parser)
        self.collate, self.batch = DetectionFastCollate(), options.batch
        self.transform = transforms_coco_train(options.size, interpolation, use_prefetcher=True)
        for part in self.transform.transforms:
            if isinstance(part, RandomResizePad):
                part.scale = scale_of(options)
        resized = RandomResizePad(options.size, STILL, "bilinear", FILL)
        self.still_transform = lambda image, target: ImageToNumpy()(*resized(image, target))

    def __call__(self) -> None:
        """Make all batches of an epoch."""
        self.dataset.transform = self.transform
        for start in range(0, len(self.dataset), self.batch):
            numbers = range(start, min(start + self.batch, len(self.dataset)))
            self.collate([self.dataset[number] for number in numbers])

    def still(self) -> Batches:
        """Return the pictures one by one, at a fixed scale."""
        self.dataset.transform = self.still_transform
        for number in range(len(self.dataset)):
            images, target = self.collate([self.dataset[number]])
            boxes = target["bbox"][0][target["cls"][0] > 0]
            yield images, [boxes[:, [1, 0, 3, 2]]]


class Torchvision:
    """A dataset as torchvision's references write it, with `transforms.v2` on uint8 and its own decoder."""

    def __init__(self, files: Files, options: argparse.Namespace, *, colours: bool):
        from torchvision.transforms import v2

        self.images, self.batch = files.images, options.batch
        content = json.loads(files.annotations.read_text())
        self.entries = content["images"]
        self.objects: dict[int, list[Any]] = {entry["id"]: [] for entry in self.entries}
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                self.objects[annotation["image_id"]].append(annotation)
        size = (options.size, options.size)
        framed = [
            v2.RandomCrop(size, pad_if_needed=True, fill=list(FILL)),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(),
        ]
        changed = [v2.ColorJitter(**COLOURS)] if colours else []
        scaled = v2.ScaleJitter(size, scale_of(options), antialias=True)
        self.transform = v2.Compose([v2.RandomHorizontalFlip(), scaled, *framed, *changed])
        self.still_transform = v2.Compose([v2.ScaleJitter(size, STILL, antialias=True), *framed])

    def sample(self, number: int, transform: Callable[..., Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Make a sample."""
        from torchvision import tv_tensors
        from torchvision.io import ImageReadMode, decode_image, read_file

        entry = self.entries[number]
        image = tv_tensors.Image(decode_image(read_file(str(self.images / entry["file_name"])), ImageReadMode.RGB))
        objects = self.objects[entry["id"]]
        boxes = torch.tensor([one["bbox"] for one in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:]),
            "labels": torch.tensor([one["category_id"] for one in objects], dtype=torch.int64),
        }
        return transform(image, target)

    def __call__(self) -> None:
        """Make all batches of an epoch."""
        for start in range(0, len(self.entries), self.batch):
            numbers = range(start, min(start + self.batch, len(self.entries)))
            samples = [self.sample(number, self.transform) for number in numbers]
            torch.stack([image for image, _ in samples])
            padded([target["boxes"] for _, target in samples])
            padded([target["labels"][:, None] for _, target in samples])

    def still(self) -> Batches:
        """Return the pictures one by one, at a fixed scale."""
        for number in range(len(self.entries)):
            image, target = self.sample(number, self.still_transform)
            yield image[None], [target["boxes"]]


def scale_of(options: argparse.Namespace) -> tuple[float, float]:
    return options.smallest, options.largest


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Return [b n c], as a batch of detections is put together."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def same(ours: Ours, theirs: Effdet | Torchvision) -> None:
    """Hold pictures and boxes of both sides against each other, at a fixed scale."""
    for number, ((images, boxes), (expected, wanted)) in enumerate(zip(ours.still(), theirs.still(), strict=True)):
        colours = (images.float().mean((0, 2, 3)) - expected.float().mean((0, 2, 3))).abs().max()
        assert colours < 1, f"picture {number} differs by {colours:.2f} grey levels"
        sizes = [large_sizes(rows[0]) for rows in (boxes, wanted)]
        assert len(sizes[0]) == len(sizes[1]), f"picture {number} has {len(sizes[0])} and {len(sizes[1])} objects"
        torch.testing.assert_close(*sizes, rtol=0, atol=1.5)


def large_sizes(boxes: Tensor) -> Tensor:
    """Return (width, height) of the boxes that no side drops, by their order in the file."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return sizes[sizes.min(1).values > 4]


def effdet_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for files in opened(options):
        for interpolations, colours in ((("random", "bilinear"), False), (("random",), True)):
            ours = Ours(files, options, colours=colours)
            title = "effdet, {}; ours changes colours too" if colours else "effdet, {}, no colours"
            peers = {title.format(kind): partial(effdet_side, ours, files, options, kind) for kind in interpolations}
            yield Comparison("samples", Side(ours), peers, files.count)


def effdet_side(ours: Ours, files: Files, options: argparse.Namespace, interpolation: str) -> Side:
    theirs = Effdet(files, options, interpolation)
    return Side(theirs, partial(same, ours, theirs))


def torchvision_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for files in opened(options):
        for colours in (False, True):
            ours = Ours(files, options, colours=colours)
            name = f"torchvision.v2, {'with' if colours else 'without'} colours"
            yield Comparison(
                "samples", Side(ours), {name: partial(torchvision_side, ours, files, options, colours)}, files.count
            )


def torchvision_side(ours: Ours, files: Files, options: argparse.Namespace, colours: bool) -> Side:
    theirs = Torchvision(files, options, colours=colours)
    return Side(theirs, partial(same, ours, theirs))


def cache_comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    for files in opened(options):
        folder = files.annotations.parent / "cache"
        for cache in (RamCache(4 * 10**9, files.count), DiskCache(folder, 4 * 10**9)):
            for colours in (False, True):
                ours = Ours(files, options, colours=colours, cache=cache)
                theirs = Ours(files, options, colours=colours)
                peer = f"itself without, {'with' if colours else 'without'} colours"
                name = f"samples, cache in {'RAM' if isinstance(cache, RamCache) else 'a file'}"
                side = Side(theirs, partial(identical, ours, theirs))
                yield Comparison(name, Side(ours), {peer: lambda side=side: side}, files.count)


def identical(ours: Ours, theirs: Ours) -> None:
    """Hold every sample of two epochs against each other, bit by bit; it fills the cache."""
    for number in (*range(len(ours.source)), *range(len(ours.source))):
        for epoch in range(4):
            key = SampleKey(epoch, number)
            assert torch.equal(ours.samples[key].image, theirs.samples[key].image), f"sample {number} differs"


def opened(options: argparse.Namespace) -> Iterator[Files]:
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        yield Files.find(options.data, Path(folder))


DEFAULT_DATA = (
    Path(os.environ.get("DENSENET_SUITE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "coco-mini"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of a COCO dataset of JPEGs")
    parser.add_argument("--size", type=int, default=512, help="of the samples")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--smallest", type=float, default=0.1, help="scale, relative to what just fits")
    parser.add_argument("--largest", type=float, default=2.0, help="scale, relative to what just fits")


ROUNDS = 5
PARTS = {"effdet": effdet_comparisons, "torchvision": torchvision_comparisons, "cache": cache_comparisons}
