"""A small dataset with boxes and masks, made of nothing; the quickstart and the tests live on it.

Coloured shapes on textured grounds, hidden behind each other, of many sizes, some pictures without any: pretty enough
to show, hard enough to learn.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from densenet_suite.files import write_text

SHAPES = ("disc", "square", "triangle", "star")
MASK_CLASSES = {"background": 0, **{name: i + 1 for i, name in enumerate(SHAPES)}}  # and their values in the masks
_SHARE_EMPTY = 0.08
_SUPERSAMPLING = 2  # shapes are drawn this much larger, so that their edges are smooth
_RADII = (0.08, 0.26)  # of the shapes, as shares of the shorter side
_CONTRAST = 90  # distance between the colours of a shape and of what is behind it
_MARGIN = 16  # pixels around a shape that its shadow needs
_MIN_VISIBLE = 0.35  # of its area, from which an object behind others is labelled


@dataclass(frozen=True)
class _Shape:
    label: int
    box: tuple[float, float, float, float]


def write_synthetic(
    root: Path | str, images: dict[str, int], *, size: tuple[int, int] = (192, 256), seed: int = 0
) -> Path:
    """Write a dataset in COCO layout, with masks beside it, and return its folder.

    Args:
        root: folder to make; pictures go to images/<split>, boxes to annotations/instances_<split>.json, and masks,
            whose values are `MASK_CLASSES`, to masks/<split>.
        images: number of pictures of each split, such as {"train": 400, "val": 80}.
        size: (height, width) of the pictures.
        seed: decides every pixel.
    """
    root = Path(root)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(SHAPES)]
    for number, (split, count) in enumerate(images.items()):
        folder, masks = root / "images" / split, root / "masks" / split
        folder.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        entries: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(count):
            rng = np.random.default_rng([seed, number, i])
            picture, shapes, mask = _picture(rng, size)
            name = f"{split}_{i:04d}.jpg"
            picture.save(folder / name, quality=92)
            mask.save(masks / f"{split}_{i:04d}.png")
            entries.append({"id": i + 1, "file_name": name, "height": size[0], "width": size[1]})
            annotations += [_annotation(len(annotations) + k + 1, i + 1, shape) for k, shape in enumerate(shapes)]
        content = {"images": entries, "annotations": annotations, "categories": categories}
        write_text(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return root


def _annotation(key: int, image: int, shape: _Shape) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(value, 2) for value in shape.box)
    box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
    return {
        "id": key,
        "image_id": image,
        "category_id": shape.label + 1,
        "bbox": box,
        "area": round(box[2] * box[3], 2),
        "iscrowd": 0,
    }


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, list[_Shape], Image.Image]:
    height, width = size
    ground = _ground(rng, height, width).resize(
        (width * _SUPERSAMPLING, height * _SUPERSAMPLING), Image.Resampling.BICUBIC
    )
    front = np.zeros((ground.height, ground.width), np.int16)  # number of the object in front, at each pixel
    drawn: list[tuple[int, int]] = []
    count = 0 if rng.random() < _SHARE_EMPTY else int(rng.integers(1, 8))
    for number in range(1, count + 1):
        label = int(rng.integers(len(SHAPES)))
        radius = float(np.exp(rng.uniform(*np.log(_RADII)))) * min(size) * _SUPERSAMPLING
        centre = (rng.uniform(0.05, 0.95) * ground.width, rng.uniform(0.05, 0.95) * ground.height)
        area = _draw(rng, ground, front, number, _outline(label, centre, radius, rng.uniform(0, 2 * math.pi)))
        drawn.append((label, area))
    shapes = []
    for number, (label, area) in enumerate(drawn, start=1):
        visible = front == number
        if area and visible.sum() >= _MIN_VISIBLE * area:
            shapes.append(_Shape(label, _bounds(visible)))
    picture = ground.resize((width, height), Image.Resampling.LANCZOS)
    noise = rng.normal(0, rng.uniform(2, 8), (height, width, 3))
    pixels = np.clip(np.asarray(picture, np.float64) + noise, 0, 255).astype(np.uint8)
    value_of = np.array([0, *(label + 1 for label, _ in drawn)], np.uint8)
    mask = value_of[front[::_SUPERSAMPLING, ::_SUPERSAMPLING]]
    return Image.fromarray(pixels), shapes, Image.fromarray(mask)


def _draw(
    rng: np.random.Generator,
    ground: Image.Image,
    front: np.ndarray[Any, Any],
    number: int,
    outline: list[tuple[float, float]],
) -> int:
    """Draw a shaded shape over a soft shadow, claim its pixels, and return how many there are."""
    corners = np.array(outline)
    left, top = np.maximum(corners.min(0).astype(int) - _MARGIN, 0)
    right, bottom = np.minimum(corners.max(0).astype(int) + _MARGIN, (ground.width, ground.height))
    colours, slope = rng.uniform(30, 255, (16, 3)), rng.uniform(-0.3, 0.3, 2)
    if right <= left or bottom <= top:
        return 0
    behind = np.asarray(ground.crop((left, top, right, bottom)), np.float64).mean((0, 1))
    distance = np.linalg.norm(colours - behind, axis=1)
    colour = colours[np.argmax(distance > _CONTRAST)]  # the first of the draws that stands out
    mask = Image.new("L", (int(right - left), int(bottom - top)), 0)
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=255)
    patch = ground.crop((left, top, right, bottom))
    shadow = mask.filter(ImageFilter.GaussianBlur(4)).point([round(value * 0.35) for value in range(256)])
    shifted = Image.new("L", mask.size, 0)
    shifted.paste(shadow, (4, 5))
    patch.paste((0, 0, 0), mask=shifted)
    y, x = np.mgrid[-1 : 1 : mask.height * 1j, -1 : 1 : mask.width * 1j]
    shade = (1 + slope[0] * x + slope[1] * y)[..., None]
    patch.paste(Image.fromarray(np.clip(colour * shade, 0, 255).astype(np.uint8)), mask=mask)
    ground.paste(patch, (int(left), int(top)))
    inside = np.asarray(mask) > 0
    front[top:bottom, left:right][inside] = number
    return int(inside.sum())


def _bounds(mask: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    """Return the box around a mask, xyxy in pixels of the final picture."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    x1, y1, x2, y2 = (float(corner) / _SUPERSAMPLING for corner in corners)
    return x1, y1, x2, y2


def _ground(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Return a soft texture: noise of several scales between two colours, with stripes in half of the pictures."""
    field = np.zeros((height, width))
    for cells in (3, 6, 12, 24):
        noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        field += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / math.sqrt(cells)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, math.pi), rng.uniform(10, 40)
        y, x = np.mgrid[:height, :width]
        field += 0.5 * np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period)
    share = ((field - field.min()) / np.ptp(field))[..., None]
    dark, light = rng.uniform(20, 150, 3), rng.uniform(90, 230, 3)
    return Image.fromarray((dark * (1 - share) + light * share).astype(np.uint8))


def _outline(label: int, centre: tuple[float, float], radius: float, angle: float) -> list[tuple[float, float]]:
    corners = {"disc": 40, "square": 4, "triangle": 3, "star": 10}[SHAPES[label]]
    points = []
    for i in range(corners):
        reach = radius * (0.45 if SHAPES[label] == "star" and i % 2 else 1.0)
        turn = angle + 2 * math.pi * i / corners
        points.append((centre[0] + reach * math.cos(turn), centre[1] + reach * math.sin(turn)))
    return points
