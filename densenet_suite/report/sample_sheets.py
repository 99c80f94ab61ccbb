"""Pictures of labelled samples: as the files hold them, and as the network sees them in training."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import ImageFont

from densenet_suite.detection.data import DetectionData
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.drawing import Colour, captioned, class_colour, displayable, draw_boxes, draw_mask, legend
from densenet_suite.geometry import Letterbox, resize
from densenet_suite.images import read_pixels
from densenet_suite.sampling import SampleKey
from densenet_suite.segmentation.data import SegmentationData
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.reading import read_scene

Array = np.ndarray[Any, Any]
PANEL = 560  # largest side of a picture in a sheet, in pixels
_NAMED = 12  # boxes up to which each has its name, where there is room for it


def detection_pairs(data: DetectionData, split: DetectionSet, chosen: Sequence[int], *, augmented: bool) -> list[Array]:
    """Draw images with their boxes; each is followed, if `augmented`, by what the network gets to see of it."""
    shown = Counter(int(label) for i in chosen for label in split.images[i].objects.labels)
    rank = {label: number for number, (label, _) in enumerate(shown.most_common())}
    names = split.classes.names
    dataset: Any = data.train_dataloader().dataset if augmented else None
    pictures = []
    for i in chosen:
        entry = split.images[i]
        pixels, _ = read_pixels(entry.path, 3)
        objects = entry.objects
        panel = _boxes(pixels, objects.boxes, objects.labels, names, rank, objects.crowd.tolist())
        pictures.append(captioned(panel, f"{entry.path.name}  {entry.width}x{entry.height}"))
        if augmented:
            sample = dataset[SampleKey(0, i)]
            pixels = displayable(sample.image.numpy().transpose(1, 2, 0))
            labels = sample.labels.numpy()
            panel = _boxes(pixels, sample.boxes.numpy().astype(np.float64), labels, names, rank, [])
            pictures.append(captioned(panel, f"as trained  {pixels.shape[1]}x{pixels.shape[0]}"))
    return pictures


def segmentation_pairs(
    data: SegmentationData, split: SegmentationSet, chosen: Sequence[int], *, augmented: bool
) -> list[Array]:
    """Draw images with their masks over them; each is followed, if `augmented`, by what the network gets to see."""
    dataset: Any = data.train_dataloader().dataset if augmented else None
    classes = split.classes
    pictures = []
    for i in chosen:
        scene = split.scenes[i]
        pixels, mask = read_scene(scene)
        shown = displayable(pixels)
        size = f"{scene.width}x{scene.height}"
        for picture, text in (
            (_fitted(shown), f"{scene.path.name}  {size}"),
            (_overlaid(shown, mask, classes), "its mask"),
        ):
            pictures.append(captioned(picture, text))
        if augmented:
            sample = dataset[SampleKey(0, i * (len(dataset) // len(split)))]
            pixels = displayable(sample.image.numpy().transpose(1, 2, 0))
            mask = sample.mask.numpy()
            size = f"{pixels.shape[1]}x{pixels.shape[0]}"
            for picture, text in (
                (_fitted(pixels), f"as trained  {size}"),
                (_overlaid(pixels, mask, classes), "its mask"),
            ):
                pictures.append(captioned(picture, text))
    return pictures


def _boxes(
    pixels: Array, boxes: Array, labels: Array, names: Sequence[str], rank: dict[int, int], crowd: list[bool]
) -> Array:
    fit = Letterbox.fit((pixels.shape[0], pixels.shape[1]), (PANEL, PANEL))
    picture, boxes = resize(pixels, *fit.resized), fit.boxes(boxes)
    ranks = [rank.get(int(label), len(rank)) for label in labels]
    counts = Counter(int(label) for label in labels)
    texts = [""] * len(labels)
    if len(counts) > 1 and len(labels) <= _NAMED:
        font = ImageFont.load_default(max(10, round(max(picture.shape[:2]) / 45)))
        for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            room = min(box[2], picture.shape[1]) - max(0, box[0])
            texts[i] = names[label] if font.getlength(names[label]) <= max(room, 40) else ""
    drawn = draw_boxes(picture, boxes, ranks, texts, dashed=crowd)
    entries: list[tuple[str, Colour | None]] = [
        (f"{names[label]} ({count})", class_colour(rank.get(label, len(rank)))) for label, count in counts.most_common()
    ]
    return np.concatenate([drawn, legend(entries, picture.shape[1], max(picture.shape[:2]))])


def _fitted(picture: Array) -> Array:
    fit = Letterbox.fit((picture.shape[0], picture.shape[1]), (PANEL, PANEL))
    return resize(picture, *fit.resized)


def _overlaid(picture: Array, mask: Array, classes: Any) -> Array:
    """Draw a mask at the size of the panel, so that outlines and hatching are as wide everywhere."""
    shown = _fitted(picture)
    height, width = shown.shape[:2]
    rows = (np.arange(height) + 0.5) * mask.shape[-2] / height
    columns = (np.arange(width) + 0.5) * mask.shape[-1] / width
    nearest = mask[..., rows.astype(int)[:, None], columns.astype(int)[None]]
    return draw_mask(shown, nearest, classes.colours, classes.names)
