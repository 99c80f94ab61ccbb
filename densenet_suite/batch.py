"""Batches as frozen dataclasses that Lightning and pinned memory know how to move."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:
    DataclassInstance = object


def image_tensor(pixels: np.ndarray[Any, Any]) -> Tensor:
    """Return pixels [h w c] as [c h w], without moving one; they may be changed afterwards."""
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).permute(2, 0, 1)


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images [c h w] of `image_tensor` to [b c h w], in memory [b h w c] as they are and as networks want them.

    A worker process writes them straight to where the process that trains will read them.
    """
    stacked: Tensor = default_collate([image.permute(1, 2, 0) for image in images])
    return stacked.permute(0, 3, 1, 2)


class TensorBatch(DataclassInstance):
    """Base of frozen dataclasses of tensors; other fields stay where they are."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return the batch with its tensors in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Any) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)
