"""Other implementations beside ours: random but live weights, and how far two results lie apart."""

import torch
from torch import Tensor, nn


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm, bias and fusion weight a random value, as training would; kernels keep theirs."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                uniform(part.weight, 0.5, 1.5)
                uniform(part.bias, -0.2, 0.2)
                uniform(part.running_mean, -0.2, 0.2)
                uniform(part.running_var, 0.5, 1.5)
            elif getattr(part, "bias", None) is not None and isinstance(part.bias, nn.Parameter):
                uniform(part.bias, -0.2, 0.2)
            for name, parameter in part.named_parameters(recurse=False):
                if name in ("edge_weights", "weights"):
                    uniform(parameter, 0.2, 1.5)
    return module


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
