"""What can be said of masks once they are read: classes that cannot be learned, and what crops and scale make of them.

The pixels of every class have been counted when the split was read; only the thickness of classes takes another look,
at a sample of the masks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.image_opening import open_image
from densenet_suite.segmentation.datasets import LabelledScene, SegmentationSet
from densenet_suite.segmentation.masks import FileMask
from densenet_suite.segmentation.structures import IGNORE

Array = np.ndarray[Any, Any]

_RARE = 0.001  # share of the known pixels
_MOST_IGNORED = 0.5
_THIN_SAMPLE = 20  # masks
_VANISHES = 0.5  # share of a class's pixels that are in parts thinner than a pixel of the network
_SHOWN = 10


def check_masks(splits: Mapping[str, SegmentationSet]) -> None:
    """Add to the findings of each split what its masks show."""
    for split in splits.values():
        _note_ignored(split)
        _note_files(split)
    train = splits.get("train")
    if train is None:
        return
    _note_rare(train)
    counts = train.pixel_counts.sum(0)
    for name in splits.keys() - {"train"}:
        here = splits[name].pixel_counts.sum(0)
        only = np.flatnonzero((counts == 0) & (here > 0))
        splits[name].findings.several(
            "warning",
            "class-not-in-train",
            len(only),
            [f"class {train.classes.names[i]!r} has {here[i]} pixels here and none to train on" for i in only],
            "divide the images anew, so that each class is trained on",
        )


def check_crops(splits: Mapping[str, SegmentationSet], crop: tuple[int, int], scale: float) -> dict[str, Any]:
    """Say what crops and scale make of the images to train on; what is lost is added to the findings.

    Args:
        splits: by name.
        crop: (height, width) of the network's input.
        scale: pixels of the network per pixel of the file.

    Returns:
        plain values: the share of each class, and how much of an image a crop covers.
    """
    train = splits.get("train")
    if train is None or not len(train):
        return {}
    sizes = np.array([(scene.height, scene.width) for scene in train.scenes]) * scale
    smaller = np.flatnonzero((np.round(sizes) < np.array(crop)).any(1))
    train.findings.several(
        "note",
        "image-smaller-than-crop",
        len(smaller),
        [
            f"image {train.scenes[i].path.name} is {sizes[i, 1]:.0f}x{sizes[i, 0]:.0f} to the network, the crop is "
            f"{crop[1]}x{crop[0]}: the rest is padding"
            for i in smaller[:_SHOWN]
        ],
        "a smaller data.crop costs less time",
    )
    if scale < 1:
        _note_thin(train, scale)
    known = np.maximum(train.known_counts.sum(0), 1)
    return {
        "crop": list(crop),
        "scale": scale,
        "image_covered_by_crop": round(float(np.median(np.minimum(1, crop / sizes).prod(1))), 4),
        "class_shares": {
            name: round(float(train.pixel_counts[:, i].sum() / known[i]), 6)
            for i, name in enumerate(train.classes.names)
        },
    }


def _note_ignored(split: SegmentationSet) -> None:
    unknown = np.flatnonzero(split.known_counts.sum(1) == 0)
    split.findings.several(
        "warning",
        "mask-only-ignored",
        len(unknown),
        [f"nothing is known of any pixel of {split.scenes[i].mask.place}" for i in unknown[:_SHOWN]],
        "leave the image out, or label it",
    )
    pixels = sum(scene.height * scene.width for scene in split.scenes)
    ignored = 1 - split.known_counts.sum() / max(1, len(split.classes) * pixels)
    present = np.flatnonzero(split.pixel_counts.sum(0))
    if pixels and len(present) == 1 and ignored > 0 and not split.classes.multilabel:
        split.findings.warning(
            "mask-one-class",
            f"all pixels of the masks are {split.classes.names[present[0]]!r}, or ignored ({100 * ignored:.1f} %)",
            "do masks hold 0 and 255? 255 is ignored unless it is a class: "
            "data.classes={background: 0, foreground: 255}",
        )
    elif ignored > _MOST_IGNORED and len(unknown) < len(split):
        split.findings.warning(
            "mask-mostly-ignored", f"{100 * ignored:.0f} % of the pixels are ignored: not learned, not scored"
        )


def _note_files(split: SegmentationSet) -> None:
    """Say how mask files are stored: what JPEG makes of a class may be another one, and palettes are read in two ways.

    Palettes are a common trap: some readers give colours, others indices, and files with and without one mix.
    """
    masks = [scene.mask for scene in split.scenes if isinstance(scene.mask, FileMask)]
    stored = [_storage(mask.paths[0]) for mask in masks]
    lossy = [mask for mask, (kind, _) in zip(masks, stored, strict=True) if kind in ("JPEG", "MPO")]
    if lossy and not lossy[0].codec.nearest:
        split.findings.several(
            "warning",
            "mask-lossy",
            len(lossy),
            [f"mask {mask.place} is a JPEG" for mask in lossy[:_SHOWN]],
            "near edges its values may be those of other classes: export masks as PNG",
        )
    with_palette = [mask for mask, (_, mode) in zip(masks, stored, strict=True) if mode in ("P", "PA")]
    if with_palette:
        read_as = "the colours of the palette" if with_palette[0].codec.coloured else "the numbers, not the colours"
        split.findings.several(
            "note",
            "mask-palette",
            len(with_palette),
            [f"mask {mask.paths[0].name} has a palette" for mask in with_palette[:_SHOWN]],
            f"{len(with_palette)} of {len(masks)} have one: of these, {read_as} are read",
        )


def _storage(path: Path) -> tuple[str | None, str]:
    """Return the format and mode that Pillow sees in a file."""
    try:
        with open_image(path) as image:
            return image.format, image.mode
    except DataError:  # a raster that Pillow cannot read
        return None, ""


def _note_rare(train: SegmentationSet) -> None:
    counts, known = train.pixel_counts.sum(0), np.maximum(train.known_counts.sum(0), 1)
    rare = np.flatnonzero((counts > 0) & (counts < _RARE * known))
    train.findings.several(
        "note",
        "class-rare",
        len(rare),
        [f"class {train.classes.names[i]!r} has {100 * counts[i] / known[i]:.3f} % of the pixels" for i in rare],
        "loss.class_weights=balanced makes the rare count more",
    )


def _note_thin(train: SegmentationSet, scale: float) -> None:
    names = train.classes.names
    thin, total = np.zeros(len(names)), np.zeros(len(names))
    for i in np.unique(np.linspace(0, len(train) - 1, _THIN_SAMPLE).astype(int)):
        shares = _thin_pixels(train.scenes[i], len(names), scale)
        thin, total = thin + shares[0], total + shares[1]
    lost = np.flatnonzero((total > 0) & (thin > _VANISHES * total))
    train.findings.several(
        "warning",
        "class-thin",
        len(lost),
        [
            f"class {names[i]!r}: {100 * thin[i] / total[i]:.0f} % of its pixels are in parts thinner than one pixel "
            f"of the network at data.scale {scale:g}"
            for i in lost
        ],
        "a larger data.scale keeps them",
    )


def _thin_pixels(scene: LabelledScene, classes: int, scale: float) -> tuple[Array, Array]:
    """Return the pixels [k] of each class in parts thinner than a pixel of the network, and all of its pixels."""
    mask = scene.mask.decode().mask
    layers = mask == 1 if mask.ndim == 3 else np.stack([mask == i for i in range(classes)])
    side = int(np.floor(1 / scale)) + 1  # what an opening of this side removes is thinner than that
    kernel = np.ones((side, side), np.uint8)
    # a class goes on beyond the border and below what is not labelled
    unknown = mask == IGNORE
    padded = [
        np.pad((layer | (unknown if mask.ndim == 2 else unknown[i])), side, mode="edge")
        for i, layer in enumerate(layers)
    ]
    opened = [
        cv2.morphologyEx(layer.astype(np.uint8), cv2.MORPH_OPEN, kernel)[side:-side, side:-side] > 0 for layer in padded
    ]
    thin = [int((layer & ~kept).sum()) for layer, kept in zip(layers, opened, strict=True)]
    return np.array(thin), layers.reshape(classes, -1).sum(1)
