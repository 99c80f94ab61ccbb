"""Both heads on all levels at once, for a GPU, which is through with a small kernel sooner than it is asked for it.

The levels lie side by side on one canvas, with a line of zeros between them, and a cell has the channels of all heads:
one kernel convolves for all of them. What each level's norms multiply by and add is spread over the level's place; it
is zero between the places, and so is an activation of zero. `PredictionHead` is the readable form.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from densenet_suite.detection.heads import PredictionHead
from densenet_suite.norm_act import BatchNorm

Place = tuple[slice, slice]  # rows and columns

# numbers of the finest level: more should keep a GPU busy while it is asked for the next kernel, by its bandwidth; this
# has not been measured on one
_MOST = 2**20


def is_quicker(features: Sequence[Float[Tensor, "b c _ _"]]) -> bool:
    """Whether levels are so small that a GPU would wait for its kernels; a compiler makes few of them by itself."""
    finest = features[0]
    return finest.device.type != "cpu" and not torch.compiler.is_compiling() and finest.numel() <= _MOST


class PackedHeads(nn.Module):
    """The heads of one pyramid in inference.

    Args:
        heads: in evaluation and not fused yet; alike but for their outputs.
    """

    affine: Tensor

    def __init__(self, heads: Sequence[PredictionHead]):
        super().__init__()
        convs = list(zip(*([*head.convs, head.predict] for head in heads), strict=True))
        self.depthwise = nn.ModuleList(_merged([conv.depthwise for conv in same]) for same in convs)
        self.pointwise = nn.ModuleList(_merged([conv.pointwise for conv in same]) for same in convs[:-1])
        self.register_buffer("affine", torch.cat([_affine(head) for head in heads], 3), persistent=False)
        self.act = heads[0].act
        self.products = nn.ModuleList(head.predict.pointwise for head in heads)
        self.outputs = [head.outputs for head in heads]

    def forward(self, features: Sequence[Float[Tensor, "b c _ _"]]) -> list[Float[Tensor, "b n _"]]:
        """Return the predictions of each head, ordered as `PredictionHead` orders them."""
        batch, channels = features[0].shape[:2]
        places, size = _places([(level.shape[2], level.shape[3]) for level in features])
        canvas = features[0].new_zeros(batch, *size, len(self.products), channels)
        affine = self.affine.new_zeros(*size, *self.affine.shape[1:])
        for level, (rows, columns), numbers in zip(features, places, self.affine, strict=True):
            canvas[:, rows, columns] = level.permute(0, 2, 3, 1).unsqueeze(3)
            affine[rows, columns] = numbers
        x = canvas.flatten(3).permute(0, 3, 1, 2)
        for i, pointwise in enumerate(self.pointwise):
            scale, shift = affine[:, :, i].permute(2, 3, 0, 1)
            x = self.act(torch.addcmul(shift, pointwise(self.depthwise[i](x)), scale))
        answers = []
        cells = _cells(self.depthwise[-1](x), places).split(channels, 1)
        for product, outputs, mine in zip(self.products, self.outputs, cells, strict=True):
            assert isinstance(product, nn.Conv2d)
            answers.append(F.linear(mine, product.weight.flatten(1), product.bias).view(batch, -1, outputs))
        return answers


def _merged(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """Return convolutions without bias that keep the size side by side, as groups of one."""
    one, several = convs[0], len(convs)
    merged = nn.Conv2d(
        several * one.in_channels,
        several * one.out_channels,
        one.kernel_size[0],
        padding=one.kernel_size[0] // 2,
        groups=several * one.groups,
        bias=False,
    )
    merged.weight = nn.Parameter(torch.cat([conv.weight for conv in convs]), requires_grad=False)
    return merged


def _affine(head: PredictionHead) -> Float[Tensor, "levels repeats 2 c"]:
    """Return what the norms of each level multiply by, and what they add."""
    repeats = []
    for norms in head.norms:
        assert isinstance(norms, nn.ModuleList)
        repeats.append(torch.stack([_scale_and_shift(norm) for norm in norms if isinstance(norm, BatchNorm)]))
    return torch.stack(repeats, 1)


def _scale_and_shift(norm: BatchNorm) -> Float[Tensor, "2 c"]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return torch.stack([scale, norm.bias - norm.running_mean * scale])


def _places(sizes: Sequence[tuple[int, int]]) -> tuple[list[Place], tuple[int, int]]:
    """Return where levels lie, and the canvas: the finest on the left, the others one below the other beside it."""
    (height, width), *others = sizes
    places = [(slice(0, height), slice(0, width))]
    top = 0
    for rows, columns in others:
        places.append((slice(top, top + rows), slice(width + 1, width + 1 + columns)))
        top += rows + 1
    return places, (max(height, top - 1), max(columns.stop for _, columns in places))


def _cells(x: Float[Tensor, "b c h w"], places: Sequence[Place]) -> Float[Tensor, "cells c"]:
    """Return the cells of each image, level by level."""
    image = x.permute(0, 2, 3, 1)
    levels = [image[:, rows, columns] for rows, columns in places]
    cells = x.new_empty(len(x), sum(level.shape[1] * level.shape[2] for level in levels), x.shape[1])
    start = 0
    for level in levels:
        end = start + level.shape[1] * level.shape[2]
        cells[:, start:end].unflatten(1, level.shape[1:3]).copy_(level)
        start = end
    return cells.flatten(0, 1)
