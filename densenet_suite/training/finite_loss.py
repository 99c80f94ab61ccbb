"""A loss that is not finite stops a run before anything is learned from it, and says where it comes from."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from densenet_suite.errors import SuiteError


class FiniteLoss(L.Callback):
    """Stops before the backward pass of a loss that is NaN or infinite; neither weights nor average have seen it.

    Args:
        seeds: seeds a step; the step is repeated to find the part that is to blame.
    """

    def __init__(self, seeds: L.Callback):
        self.seeds = seeds
        self._batch: Any = None
        self._batch_idx = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch."""
        self._batch, self._batch_idx = batch, batch_idx

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Stop.

        Raises:
            SuiteError: the loss is not finite.
        """
        if bool(torch.isfinite(loss)):
            return
        self.seeds.on_train_batch_start(trainer, pl_module, self._batch, self._batch_idx)
        model = pl_module.model
        assert isinstance(model, nn.Module)
        raise SuiteError(
            f"the loss is {loss.item()} in step {trainer.global_step + 1}, epoch {trainer.current_epoch + 1}, "
            f"batch {self._batch_idx + 1}; {_blame(model, self._batch.images)}",
            where=", ".join(_files(trainer, self._batch)),
            hint="look at these files and their labels; if they are sound, lower train.optimizer.lr or train.clip. "
            "The last checkpoint is from before this",
        )


def _files(trainer: L.Trainer, batch: Any) -> list[str]:
    loader = trainer.train_dataloader
    source = getattr(getattr(loader, "dataset", None), "source", None)
    indices = batch.indices.tolist()
    return [str(i) for i in indices] if source is None else [str(source.paths[i]) for i in indices]


def _blame(model: nn.Module, images: Tensor) -> str:
    if not bool(torch.isfinite(images).all()):
        return "the images have values that are not finite"
    wrong = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if wrong:
        return f"the weights {wrong[0]} are not finite"
    with torch.no_grad(), _first_wrong(model) as found:
        model(images)
    if found:
        return f"the first module whose output is not finite is {found[0]}"
    return "the network's output is finite, so the loss itself or the labels are to blame"


@contextmanager
def _first_wrong(model: nn.Module) -> Iterator[list[str]]:
    """Collect the names of modules with non-finite outputs, in the order in which they are done."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(output)):
                found.append(name or "the network as a whole")

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)
