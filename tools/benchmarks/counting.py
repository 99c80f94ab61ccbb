"""What can be counted of a training step, and does not waver as times do: memory, operations, kernels."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measuring import Work

# beside the views that PyTorch knows as such
_NO_WORK = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")


def saved_mib(forward: Callable[[], Tensor], model: nn.Module) -> float:
    """Return how much is kept from the forward pass for the backward pass, weights and buffers left out.

    Args:
        forward: computes the loss.
        model: what has the weights.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    for tensor in _held(loss.grad_fn):
        keep(tensor)
    for tensor in (*model.parameters(), *model.buffers()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values()) / 2**20


def _held(root: Any) -> Iterator[Tensor]:
    """Yield the tensors that functions written in Python keep as attributes, which hooks do not see."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            yield from (leaf for leaf in tree_leaves(vars(node)) if isinstance(leaf, Tensor))
        waiting += [before for before, _ in node.next_functions]


def operations(run: Work) -> int:
    """Return how many operations PyTorch dispatches, without views and allocations: on a GPU, launches of kernels."""
    with _Counter() as counter:
        run()
    return counter.count


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.overloadpacket.__name__ not in _NO_WORK
        return func(*args, **(kwargs or {}))


def kernels(run: Work) -> int:
    """Return how many CUDA kernels run, by the profiler; copies and fills of memory are none."""
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    on_device = [event for event in profiler.events() or [] if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)
