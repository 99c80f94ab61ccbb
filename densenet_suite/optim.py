"""Optimizers, the learning rate over a run, and what is not trained."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from densenet_suite.errors import ConfigError
from densenet_suite.norm_act import BatchNorm
from densenet_suite.registry import did_you_mean

REFERENCE_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How weights are updated.

    Attributes:
        optimizer: "sgd" (with momentum) or "adamw".
        lr: for a global batch of 64 images.
        momentum: of sgd.
        weight_decay: of everything but norms, biases and fusion weights.
        warmup_epochs: the learning rate rises linearly from nothing, then falls to nothing along a cosine.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.08
    momentum: float = 0.9
    weight_decay: float = 4e-5
    warmup_epochs: float = 1.0

    def lr_for(self, global_batch: int) -> float:
        """Scale to a batch: linearly for sgd (Goyal et al., arXiv:1706.02677), by the square root for adamw."""
        ratio = global_batch / REFERENCE_BATCH
        return self.lr * (ratio if self.optimizer == "sgd" else math.sqrt(ratio))

    def build(self, model: nn.Module, global_batch: int) -> torch.optim.Optimizer:
        """Make the optimizer for what is trained."""
        groups = parameter_groups(model, self.weight_decay)
        lr = self.lr_for(global_batch)
        fused = True if _can_be_fused(groups) else None  # None leaves the choice to torch
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=lr, momentum=self.momentum, fused=fused)
        else:
            optimizer = torch.optim.AdamW(groups, lr=lr, fused=fused)
        # a fused step offers to divide by the scale of mixed precision, and Lightning then refuses to clip gradients
        optimizer._step_supports_amp_scaling = False
        return optimizer

    def factor(self, step: int, steps_per_epoch: int, total_steps: int) -> float:
        """Return the share of the learning rate at a step."""
        warmup = min(round(self.warmup_epochs * steps_per_epoch), total_steps // 2)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Divide the trained parameters into those that are decayed and those of one dimension, which are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _can_be_fused(groups: Sequence[dict[str, Any]]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Stop training the parameters whose names match a shell pattern; return how many tensors that are.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = {name.partition(".")[0] for name in names} | {".".join(name.split(".")[:3]) for name in names}
            raise ConfigError(
                f"train.freeze: the pattern {pattern!r} matches no parameter",
                hint=did_you_mean(pattern, parts)
                or f"parameters are named like {names[0]}; backbone.* is all of a backbone",
            )
    frozen = 0
    for name, parameter in model.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
            frozen += 1
    if frozen == len(names):
        raise ConfigError(f"train.freeze: {list(patterns)} leave nothing to train")
    return frozen


def frozen_norms(model: nn.Module) -> list[BatchNorm]:
    """Return the batch norms of which no parameter is trained."""
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    return [norm for norm in norms if norm.affine and not any(p.requires_grad for p in norm.parameters())]
