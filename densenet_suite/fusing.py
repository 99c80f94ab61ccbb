"""A network for inference alone: what is constant there is worked into the weights once, not at every image.

Batch norms become part of the convolutions before them, fusion weights are normalised, kernels are turned into the form
in which they are used. Each part knows what that is for itself; the answers stay the same up to rounding.
"""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class Fusible(nn.Module, ABC):
    """A part of a network that can be made simpler once it no longer learns."""

    @abstractmethod
    def fuse_(self) -> None:
        """Make this part what inference needs of it, for good; it is in evaluation and does not learn any more."""


def fuse(model: Model, dtype: torch.dtype = torch.float32) -> Model:
    """Return a copy of a network that is faster and can only infer.

    Parts that cannot be fused, such as timm's networks, are as they were. The copy's state dict is not that of the
    original: save the original.

    Args:
        model: a detector, a segmenter, a backbone, or any network; it is not changed.
        dtype: of weights and of all that is computed from normalised pixels. `torch.bfloat16` is faster where the
            processor has it; a trained detector's scores moved by 0.0007 in the median and 0.006 in 99 of 100.
    """
    fused = deepcopy(model).eval().requires_grad_(False)
    for module in list(fused.modules()):
        if isinstance(module, Fusible):
            module.fuse_()
    return fused.to(dtype).to(memory_format=torch.channels_last)
