"""Boxes with labels on pictures: colours that differ, text that can be read, nothing covered that need not be."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray[Any, Any]
Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """Return the colour of a class: hues a golden ratio apart, so that neighbours differ for any number of classes."""
    hue = (0.02 + label * 0.6180339887) % 1.0
    value = (1.0, 0.85)[label // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6)[label // 16 % 2], value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: Array, boxes: Array, labels: Sequence[int], texts: Sequence[str], *, dashed: Sequence[bool] = ()
) -> Array:
    """Draw boxes [n 4] (xyxy, pixels) on a uint8 image [h w 3], small ones last so that they stay visible.

    Args:
        image: untouched; a copy is returned.
        boxes: may stick out.
        labels: choose the colours.
        texts: one for each box, "" for none.
        dashed: which boxes are drawn in dashes (crowd regions).
    """
    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    side = max(picture.size)
    width = max(1, round(side / 300))
    font = ImageFont.load_default(max(10, round(side / 45)))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-areas, kind="stable")
    taken: list[tuple[float, float, float, float]] = []
    for i in order:
        x1, y1, x2, y2 = (float(value) for value in boxes[i])
        colour = class_colour(int(labels[i]))
        if len(dashed) and dashed[i]:
            _dashed(canvas, (x1, y1, x2, y2), colour, width)
        else:
            canvas.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=width)
    for i in order:
        if texts[i]:
            _label(canvas, texts[i], boxes[i], class_colour(int(labels[i])), font, picture.size, taken)
    return np.asarray(picture)


def enlarged(image: Array, boxes: Array, side: int = 480) -> tuple[Array, Array]:
    """Return a small picture and its boxes enlarged by a whole factor, so that labels do not cover it."""
    factor = -(-side // max(image.shape[:2]))
    return (image, boxes) if factor <= 1 else (image.repeat(factor, 0).repeat(factor, 1), boxes * factor)


def contact_sheet(pictures: Sequence[Array], columns: int, gap: int = 4) -> Array:
    """Put pictures side by side, each in a cell as large as the largest."""
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


def _label(
    canvas: ImageDraw.ImageDraw,
    text: str,
    box: Array,
    colour: Colour,
    font: Any,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Write a label where it is free: above the box, below it, or inside, and within the picture."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = min(max(0.0, float(box[0])), max(0.0, size[0] - width))
    places = [float(box[1]) - height, float(box[3]), float(box[1])]
    places = [y for y in places if 0 <= y <= size[1] - height] or [min(max(0.0, float(box[1])), size[1] - height)]
    y = next(
        (y for y in places if not any(_overlap((x, y, x + width, y + height), other) for other in taken)),
        places[0],
    )
    taken.append((x, y, x + width, y + height))
    canvas.rectangle((x, y, x + width, y + height), fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    canvas.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _dashed(canvas: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = box
    dash = 6 * width
    for start in np.arange(x1, x2, 2 * dash):
        for y in (y1, y2):
            canvas.line((start, y, min(start + dash, x2), y), fill=colour, width=width)
    for start in np.arange(y1, y2, 2 * dash):
        for x in (x1, x2):
            canvas.line((x, start, x, min(start + dash, y2)), fill=colour, width=width)
