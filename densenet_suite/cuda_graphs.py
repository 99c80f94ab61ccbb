"""A network's kernels, launched on a GPU all at once.

A GPU is through with a small batch sooner than Python has asked for its thousand kernels. A CUDA graph asks for them
once, and replays them on the same memory. It is of one shape of images: the second batch of a shape is captured, and
what comes only once, such as the last batch or a small scene, goes the ordinary way.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Forward = Callable[[Tensor], Any]

_MOST = 8  # graphs: each keeps the memory of a whole pass
_WARM_CALLS = 3  # before a graph is captured, so that libraries have chosen their kernels


def replay_(model: Model) -> Model:
    """Make a network on a GPU replay its passes as CUDA graphs, for good, and return it.

    It is in evaluation and called without gradients, best as `fusing.fuse` makes it, and nothing in it waits for the
    GPU. What it answers holds until it is next called.
    """
    model.forward = _Graphs(model.forward)
    return model


class _Graphs:
    def __init__(self, forward: Forward):
        self.forward = forward
        self.seen: set[tuple[torch.Size, torch.dtype]] = set()
        self.graphs: dict[tuple[torch.Size, torch.dtype], Forward] = {}

    def __call__(self, images: Tensor) -> Any:
        key = images.shape, images.dtype
        if key in self.seen and key not in self.graphs and len(self.graphs) < _MOST:
            self.graphs[key] = capture(self.forward, images)
        self.seen.add(key)
        return self.graphs.get(key, self.forward)(images)


def capture(forward: Forward, images: Tensor) -> Forward:
    """Return what a network's pass over such images is as a CUDA graph: same answer, in the same memory each time."""
    given = images.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_CALLS):
            forward(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = forward(given)

    def replay(images: Tensor) -> Any:
        given.copy_(images)
        graph.replay()
        return answer

    return replay
