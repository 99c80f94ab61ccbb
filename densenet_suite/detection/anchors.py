"""Anchor boxes from feature sizes: nothing about the image size is baked in.

Reference: EfficientDet's code, anchors.py (three octaves of three shapes), with which the boxes agree to the bit. They
are ordered as the heads write: levels fine to coarse, rows, columns, octaves, shapes.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

OCTAVES = 3


def anchor_boxes(
    image_size: tuple[int, int],
    feature_sizes: Sequence[tuple[int, int]],
    scale: float,
    aspects: Sequence[tuple[float, float]],
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n 4"]:
    """Return the anchors of a pyramid, xyxy in pixels of the network's input.

    Args:
        image_size: (height, width).
        feature_sizes: (height, width) of each level, fine to coarse.
        scale: side of the smallest square anchor in units of the level's stride.
        aspects: factors of width and height of each shape.
        device: where the result is wanted.

    Returns:
        a tensor that others may have too, not to be changed: the latest are kept, as all batches of a size share them.
    """
    if torch.compiler.is_compiling():
        return _computed(image_size, feature_sizes, scale, aspects, device)
    return _kept(tuple(image_size), tuple(map(tuple, feature_sizes)), scale, tuple(aspects), torch.device(device))


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _kept(
    image_size: tuple[int, int],
    feature_sizes: tuple[tuple[int, int], ...],
    scale: float,
    aspects: tuple[tuple[float, float], ...],
    device: torch.device,
) -> Float[Tensor, "n 4"]:
    return _computed(image_size, feature_sizes, scale, aspects, device)


def _computed(
    image_size: tuple[int, int],
    feature_sizes: Sequence[tuple[int, int]],
    scale: float,
    aspects: Sequence[tuple[float, float]],
    device: torch.device | str,
) -> Float[Tensor, "n 4"]:
    # double precision, as in the original: single would differ from it in the last bit
    working = torch.device("cpu" if torch.device(device).type == "mps" else device)
    shapes = [(scale * 2 ** (octave / OCTAVES), *aspect) for octave in range(OCTAVES) for aspect in aspects]
    sides, widths, heights = (
        torch.tensor(numbers, dtype=torch.float64, device=working) for numbers in zip(*shapes, strict=True)
    )
    levels = []
    for rows, columns in feature_sizes:
        y, stride_y = _centres(image_size[0], rows, working)
        x, stride_x = _centres(image_size[1], columns, working)
        half_y, half_x = sides * stride_y * heights / 2, sides * stride_x * widths / 2
        y, x = y[:, None, None], x[None, :, None]
        box = torch.broadcast_tensors(x - half_x, y - half_y, x + half_x, y + half_y)
        levels.append(torch.stack(box, -1).reshape(-1, 4))
    return torch.cat(levels).float().to(device)


def _centres(pixels: int, cells: int, device: torch.device) -> tuple[Float[Tensor, " n"], float]:
    stride = pixels / cells
    first = stride / 2
    step = first + stride - first  # what NumPy's arange takes, to the last bit
    return first + torch.arange(cells, dtype=torch.float64, device=device) * step, stride
