"""Where and how networks run: on the CPU or a GPU; as they are, compiled, or as a CUDA graph."""

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.counting import kernels
from benchmarks.measuring import Work, child_seconds, cpu_seconds
from densenet_suite.cuda_graphs import capture

_WARM_SECONDS = 0.2  # of work before a measurement, after which a GPU runs at its full clock


def add_device_options(parser: argparse.ArgumentParser, *, graph: bool) -> None:
    """Add --device and the ways to run; `graph` says whether a CUDA graph is one."""
    parser.add_argument("--device", type=_device, default="cpu", help="cpu or cuda")
    parser.set_defaults(mode="eager")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--compiled", dest="mode", action="store_const", const="compiled", help="by torch.compile")
    if graph:
        ways.add_argument("--graph", dest="mode", type=str, nargs=0, action=_Graph, help="as a CUDA graph")


def _device(name: str) -> str:
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{name} is neither cpu nor cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("this PyTorch finds no CUDA device here")
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, or answers would not be equal
    return name


class _Graph(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if not torch.cuda.is_available():
            parser.error("--graph is for CUDA, and this PyTorch finds no CUDA device here")
        namespace.mode = "graph"


def seconds_on(device: str) -> Callable[[Work, int], float]:
    """Return what measures time there."""
    return cuda_seconds if device == "cuda" else cpu_seconds


def cuda_seconds(run: Work, calls: int) -> float:
    """Return the seconds of one call between two events of the GPU's stream, with clocks that work has warmed."""
    started = time.perf_counter()
    while time.perf_counter() - started < _WARM_SECONDS:
        run()
        torch.cuda.synchronize()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize()
    return max(first.elapsed_time(last) / 1e3, 1e-9) / calls


def kernel_figures(run: Work, device: str) -> dict[str, float]:
    """Return the number of kernels of a call, where there are kernels."""
    return {"kernels": kernels(run)} if device == "cuda" else {}


def autocast(device: str, *, enabled: bool) -> AbstractContextManager[Any]:
    """Return bfloat16 autocast, or nothing."""
    return torch.autocast(device, torch.bfloat16) if enabled else nullcontext()


def prepared(network: Callable[[Tensor], Any], images: Tensor, mode: str) -> tuple[nn.Module, Mapping[str, float]]:
    """Return a network for inference in one of the modes, and the seconds that compiling it took.

    Call it without gradients, and the result with the same images.
    """
    if mode == "compiled":
        return _compiled(network, images)
    return _Network(capture(network, images) if mode == "graph" else network), {}


class _Network(nn.Module):
    """A function in the place of a network."""

    def __init__(self, function: Callable[[Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def _compiled(network: Callable[[Tensor], Any], images: Tensor) -> tuple[nn.Module, Mapping[str, float]]:
    from torch._inductor import config

    config.freezing = True
    function = _Network(torch.compile(network, dynamic=False))
    return function, compile_figures(lambda: function(images))


def compile_figures(run: Work) -> dict[str, float]:
    """Call compiled work for the first time; return the CPU seconds of it, and in how many graphs it was taken.

    The seconds are of this process and of the compilers that it starts.
    """
    from torch._dynamo.utils import counters
    from torch._inductor.utils import fresh_cache

    _warm_compiler()
    own: list[float] = []
    before = counters["stats"]["unique_graphs"]
    with fresh_cache():  # what one side compiled is not to be found by the other
        children = child_seconds(lambda: own.append(cpu_seconds(run, 1)), 1)
    graphs = counters["stats"]["unique_graphs"] - before
    assert graphs, "torch.compile gave up and runs the work as it is"
    return {"compile s": own[0] + children, "graphs": graphs}


@cache
def _warm_compiler() -> None:
    """Import and start what the first compilation would pay for, and keep all of it in this process."""
    from torch._dynamo import config as dynamo_config
    from torch._inductor import config

    config.compile_threads = 1
    dynamo_config.recompile_limit = 256  # of one function; several networks of a peer are compiled by one process
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())
    images = torch.randn(1, 3, 8, 8)
    with torch.enable_grad():
        torch.compile(network)(images).sum().backward()
    with torch.no_grad(), config.patch(freezing=True):
        torch.compile(network.eval())(images)
