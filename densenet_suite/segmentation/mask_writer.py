"""Masks written out: as numbers, with a palette, in colours, or a file for each class; all as PNG, all without loss.

`images/<split>/` and `masks/<split>/` hold files of the same names, `classes.json` says what the values mean. Where
classes exclude each other a mask is

- `masks`: the numbers 0..k-1 in grey, 255 where nothing is known;
- `palette`: the same numbers, with the colours of the classes as palette; some tools read one, some the other;
- `colours`: the colours of the classes.

`layers` has a folder for each class, with 1 for yes, 0 for no and 255 for not known, and is what overlapping classes
need. Where they are to be written into one mask all the same, a pixel of several goes to the last of them, one of none
to `background`, and what that loses is counted.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from densenet_suite.drawing import Colour, class_colour
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.picture_files import UNSAFE, picture_names, place_pictures
from densenet_suite.segmentation.class_file import ClassFile
from densenet_suite.segmentation.class_table import colour_name
from densenet_suite.segmentation.coco_masks import BACKGROUND
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

Array = np.ndarray[Any, Any]
MaskKind = Literal["masks", "palette", "colours", "layers"]
_YES = 1


def write_masks(
    sets: Mapping[str, SegmentationSet], root: Path, kind: MaskKind, *, copy: bool = False
) -> dict[str, Findings]:
    """Write splits of images with masks, and return what was lost of each.

    Args:
        sets: the splits by their names, all of the same classes.
        root: folder of the dataset, which is empty.
        kind: what the masks are to be like, see the module.
        copy: the pictures, rather than link them; see `picture_files.place_pictures`.

    Raises:
        DataError: there are no splits, or a class cannot be a folder.
    """
    if not sets:
        raise DataError("there is no split to write")
    classes = next(iter(sets.values())).classes
    names = classes.names
    if kind != "layers" and classes.multilabel and BACKGROUND not in names:
        names = (BACKGROUND, *names)
    colours, unknown = _distinct(classes, names)
    lost = {}
    for split, dataset in sets.items():
        folder = root / "masks" / split
        lost[split] = Findings(str(folder))
        files = picture_names(dataset.paths, lost[split], by_stem=True)
        place_pictures(dataset.paths, files, root / "images" / split, copy=copy)
        for scene, file in zip(dataset.scenes, files, strict=True):
            name = f"{PurePosixPath(file).with_suffix('')}.png"
            mask = scene.mask.decode().mask
            if kind == "layers":
                for layer, label in zip(_layers(mask, classes), names, strict=True):
                    _save(Image.fromarray(layer), folder / _folder(label) / name)
                continue
            mask = _exclusive(mask, names, classes, file, lost[split]) if classes.multilabel else mask
            _save(_picture(mask, kind, colours, unknown), folder / name)
    _class_file(kind, names, colours, unknown).write(root)
    return lost


def png(mask: Array) -> bytes:
    """Return a mask [h w] of uint8 as the bytes of a grey PNG."""
    content = BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    return content.getvalue()


def _class_file(kind: MaskKind, names: tuple[str, ...], colours: list[Colour], unknown: Colour) -> ClassFile:
    if kind == "layers":
        return ClassFile(dict.fromkeys(names, _YES), multilabel=True)
    if kind == "colours":
        return ClassFile(dict(zip(names, map(_written, colours), strict=True)), [_written(unknown)])
    return ClassFile({name: i for i, name in enumerate(names)})


def _written(colour: Colour) -> str:
    red, green, blue = colour
    return colour_name(red << 16 | green << 8 | blue)


def _distinct(classes: MaskClasses, names: tuple[str, ...]) -> tuple[list[Colour], Colour]:
    """Return the colours that classes are drawn in, others where two share one, and one for what is not known."""
    own = dict(zip(classes.names, classes.colours, strict=True))
    colours: list[Colour] = []
    spare = [(255, 255, 255), *(class_colour(i) for i in range(600))]
    for name in names:
        wanted = own.get(name, (0, 0, 0))
        colours.append(wanted if wanted not in colours else next(c for c in spare[1:] if c not in colours))
    return colours, next(colour for colour in spare if colour not in colours)


def _layers(mask: Array, classes: MaskClasses) -> Array:
    if classes.multilabel:
        return mask
    layers = (mask[None] == np.arange(len(classes), dtype=np.uint8)[:, None, None]).astype(np.uint8)
    layers[:, mask == IGNORE] = IGNORE
    return layers


def _exclusive(mask: Array, names: tuple[str, ...], classes: MaskClasses, file: str, lost: Findings) -> Array:
    """Return one class for each pixel of overlapping ones."""
    found = np.full(mask.shape[1:], names.index(BACKGROUND), np.uint8)
    found[(mask == IGNORE).any(0)] = IGNORE
    for name, layer in zip(classes.names, mask, strict=True):
        found[layer == _YES] = names.index(name)
    several = int(((mask == _YES).sum(0) > 1).sum())
    half = int(((mask == IGNORE).any(0) & ((mask != IGNORE).any(0))).sum())
    if several:
        lost.warning("overlap-lost", f"{several} pixels of {file} are of several classes, the last of them stays")
    if half:
        lost.warning("partly-known", f"{half} pixels of {file} are known for some classes and not for others")
    return found


def _picture(mask: Array, kind: MaskKind, colours: list[Colour], unknown: Colour) -> Image.Image:
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    table[IGNORE] = unknown
    if kind == "colours":
        return Image.fromarray(table[mask])
    picture = Image.fromarray(mask)
    if kind == "palette":
        picture.putpalette(table.tobytes())
    return picture


def _folder(label: str) -> str:
    if "/" in label or "\\" in label or label.startswith(".") or label != label.strip() or UNSAFE.search(label):
        raise DataError(f"the class name {label!r} cannot be that of a folder", hint="write it as masks, not as layers")
    return label


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
