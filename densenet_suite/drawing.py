"""Boxes and masks on pictures: colours that differ, text that can be read, nothing covered that need not be."""

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
    value = (1.0, 0.6)[label // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6)[label // 16 % 2], value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: Array, boxes: Array, labels: Sequence[int], texts: Sequence[str], *, dashed: Sequence[bool] = ()
) -> Array:
    """Draw boxes [n 4] (xyxy, pixels) on a uint8 image [h w 3], small ones last and thinner, so that they stay visible.

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
    widest = max(1, round(side / 300))
    font = ImageFont.load_default(max(10, round(side / 45)))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-areas, kind="stable")
    taken: list[tuple[float, float, float, float]] = []
    for i in order:
        x1, y1, x2, y2 = (float(value) for value in boxes[i])
        colour = class_colour(int(labels[i]))
        width = max(1, min(widest, round(min(x2 - x1, y2 - y1) / 16)))
        if len(dashed) and dashed[i]:
            _dashed(canvas, (x1, y1, x2, y2), colour, width)
        else:
            canvas.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=width)
    for i in order:
        if texts[i]:
            _label(canvas, texts[i], boxes[i], class_colour(int(labels[i])), font, picture.size, taken)
    return np.asarray(picture)


def draw_mask(image: Array, mask: Array, colours: Sequence[Colour], names: Sequence[str]) -> Array:
    """Tint a uint8 image [h w 3] with the classes of its pixels, outline them, and put a legend below it.

    Args:
        image: untouched; a picture of the same width, and higher by the legend, is returned.
        mask: class of each pixel [h w], or 0 and 1 for each class [k h w]; 255 (nothing known) is hatched.
        colours: of the classes. A black one is background and leaves the image as it is.
        names: of the classes; the legend shows those that occur.
    """
    layers = mask if mask.ndim == 3 else np.stack([mask == i for i in range(len(names))])
    shown = [i for i in range(len(names)) if any(colours[i]) and (layers[i] == 1).any()]
    tint, count = np.zeros(image.shape, np.float32), np.zeros(image.shape[:2], np.float32)
    edge = np.zeros(image.shape[:2], bool)
    for i in shown:
        inside = layers[i] == 1
        tint[inside] += np.array(colours[i], np.float32)
        count += inside
        edge[:, 1:] |= inside[:, 1:] != inside[:, :-1]
        edge[1:] |= inside[1:] != inside[:-1]
    tint /= np.maximum(count, 1)[..., None]
    strength = np.where(count > 0, np.where(edge, np.float32(1), np.float32(0.45)), np.float32(0))
    unknown = (mask if mask.ndim == 2 else mask[0]) == 255
    rows, columns = np.indices(unknown.shape, sparse=True)
    stripe = (rows + columns) % 8  # of white beside black, which show on any picture
    tint[unknown & (stripe < 2)], tint[unknown & (stripe >= 2)] = 255, 0
    strength[unknown & (stripe < 4)] = 1
    drawn = image.astype(np.float32)
    tint -= drawn
    tint *= strength[..., None]
    drawn += tint
    drawn = np.rint(drawn, out=drawn).astype(np.uint8)
    entries = [(names[i], colours[i]) for i in shown]
    if unknown.any():
        entries.append(("not labelled", None))
    return np.concatenate([drawn, legend(entries, image.shape[1], max(image.shape[:2]))])


def displayable(pixels: Array) -> Array:
    """Return pixels [h w c] as a picture [h w 3] of uint8: three bands or more as RGB, fewer as the first one in grey.

    Values that are not uint8 are stretched between the 2nd and 98th percentile of each band.
    """
    shown = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    if shown.dtype == np.uint8:
        return shown
    low, high = np.percentile(shown, (2, 98), axis=(0, 1))
    return (255 * np.clip((shown - low) / np.maximum(high - low, 1e-9), 0, 1)).round().astype(np.uint8)


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


def captioned(picture: Array, text: str) -> Array:
    """Put a line of text above a picture; what does not fit is left out of its middle."""
    size = max(12, round(max(picture.shape[:2]) / 40))
    font = ImageFont.load_default(size)
    width = picture.shape[1]
    strip = Image.new("RGB", (width, round(1.7 * size)), "white")
    ImageDraw.Draw(strip).text((2, size // 4), _shortened(text, width - 4, font), fill="black", font=font)
    return np.concatenate([np.asarray(strip), picture])


def _shortened(text: str, width: float, font: Any) -> str:
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(f"{text[: kept // 2]}\u2026{text[-(kept - kept // 2) :]}") > width:
        kept -= 1
    return f"{text[: kept // 2]}\u2026{text[-(kept - kept // 2) :]}"


def legend(entries: Sequence[tuple[str, Colour | None]], width: int, side: int) -> Array:
    """Write names beside their colours (None for the hatching of what is not labelled), in as many rows as it needs.

    Args:
        entries: (name, colour); names that are too long are shortened.
        width: of the result.
        side: of the picture that it belongs to, which decides the size of the letters.
    """
    size = max(10, round(side / 45))
    font = ImageFont.load_default(size)
    entries = [(_shortened(name, width - 2 * size, font), colour) for name, colour in entries]
    places: list[tuple[int, int]] = []
    x, row = size // 2, 0
    for name, _ in entries:
        needed = round(2 * size + font.getlength(name))
        if x + needed > width and x > size:
            x, row = size // 2, row + 1
        places.append((x, row))
        x += needed
    line = 2 * size
    picture = Image.new("RGB", (width, (row + 1) * line if entries else 0), "white")
    canvas = ImageDraw.Draw(picture)
    for (name, colour), (x, row) in zip(entries, places, strict=True):
        y = row * line + size // 2
        if colour is None:
            for i in range(0, 2 * size, 4):
                canvas.line(
                    (x + max(0, i - size), y + min(i, size), x + min(i, size), y + max(0, i - size)), fill="black"
                )
        canvas.rectangle((x, y, x + size, y + size), fill=colour, outline="black" if colour is None else colour)
        canvas.text((x + size + size // 3, y - size // 8), name, fill="black", font=font)
    return np.asarray(picture).reshape(picture.height, width, 3)


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
