"""Small segmenters."""

from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

from densenet_suite import Segmenter, create_segmenter
from densenet_suite.backbones.base import Backbone, Level
from densenet_suite.preprocess import Normalization

TINY_BACKBONE = "efficientnet(width=0.25, depth=0.25)"


def tiny_segmenter(decoder: str = "unet", classes: int | None = 3, **options: Any) -> Segmenter:
    """Create a segmenter; the check of its backbone is spared the checks of shapes, which make it five times slower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        return create_segmenter(decoder, classes, **{"backbone": TINY_BACKBONE, **options})


class Convolutions(Backbone):
    """One strided convolution for each of `strides`, of which each divides the next."""

    def __init__(self, strides: tuple[int, ...], in_channels: int = 3):
        levels = tuple(Level(stride, 8 * (i + 1), None, None) for i, stride in enumerate(strides))
        super().__init__(levels, in_channels, Normalization.imagenet().for_bands(in_channels))
        steps = [stride // before for before, stride in zip((1, *strides), strides, strict=False)]
        widths = (in_channels, *self.channels)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.ZeroPad2d((0, step - 1, 0, step - 1)), nn.Conv2d(widths[i], widths[i + 1], step, step))
            for i, step in enumerate(steps)
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], images
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps
