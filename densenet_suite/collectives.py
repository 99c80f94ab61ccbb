"""Sums over the processes of a distributed run, through which gradients flow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed

Combine = Callable[[Tensor], Tensor]


def alone(value: Tensor) -> Tensor:
    """Return a sum of this process as it is."""
    return value


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of what all processes give; each has to call it. With one process it is the value itself.

    A loss that is made of such sums is that of the global batch, and the mean over the processes of its gradients,
    which DDP takes, is the gradient that one process with the whole batch would have.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return value
    summed: Tensor = _Sum.apply(value)
    return summed


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream * distributed.get_world_size()  # the same in every process, as the loss is
