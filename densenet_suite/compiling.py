"""What a compiler is given whole."""

import torch
from jaxtyping import Float
from torch import Tensor


def takes_whole_steps(*inputs: Tensor) -> bool:
    """Whether a compiler is at work for which steps are operators of ours: for a CPU, where nothing is learned.

    It would write kernels of C++ for every shape of map, each of which takes most of a second to make, and gain 2 to 3
    percent by them: for D0 32 without these operators, 7 with them. Programs that are exported go to runtimes that know
    PyTorch's operators only, and autocast knows no others either.
    """
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    return all(x.device.type == "cpu" and not x.requires_grad for x in inputs)


def as_row(vector: Float[Tensor, " n"]) -> Float[Tensor, "1 n"]:
    """Return a vector as operators of ours take it: a compiler writes a kernel of C++ for each short one."""
    return vector[None]
