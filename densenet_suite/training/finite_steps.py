"""Steps whose loss or gradient is not finite: nothing is learned from them, and the log says where they come from.

Losses and gradients are looked at together, once in a step: it is the only time that the host waits for the device.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from densenet_suite.epoch_means import EpochMeans
from densenet_suite.errors import SuiteError
from densenet_suite.training.averaging import EvaluationWeights
from densenet_suite.training.faults import Faults

_HINT = (
    "look at these files and their labels; if they are sound, lower train.optimizer.lr or train.clip. "
    "The last checkpoint is from before this"
)


class Seen(NamedTuple):
    """A batch of the step that is under way, by its number in the epoch, and its share of the step's loss."""

    batch: Any
    number: int
    loss: Tensor


class FiniteSteps(L.Callback):
    """Leaves out steps whose loss or gradient is NaN or infinite, up to some in a row, and stops the run at the next.

    Such a step changes nothing: not the weights or the optimizer's state, not the batch-norm statistics, not the
    average. Its place in the schedule of the learning rate passes. Under fp16 gradients that are infinite belong to the
    search for a loss scale, and are left to the scaler.

    Args:
        seeds: seeds a step; the step is repeated to find the part that is to blame.
        allowed: how many steps in a row may be left out.
        weights: keeps the average.
        means: of what an epoch logs.
        faults: where each is counted.
    """

    def __init__(self, seeds: L.Callback, allowed: int, weights: EvaluationWeights, means: EpochMeans, faults: Faults):
        self.seeds = seeds
        self.allowed = allowed
        self.weights = weights
        self.means = means
        self.faults = faults
        self.spikes = LossSpikes(faults)
        self._batch: Any = None
        self._batch_idx = 0
        self._seen: list[Seen] = []
        self._in_a_row = 0
        self._parameters: dict[str, nn.Parameter] = {}  # all of them: a walk through the modules takes a while
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []  # what they were before the step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the weights and the batch-norm statistics."""
        self._parameters = dict(_model(pl_module).named_parameters())
        self._buffers = list(_model(pl_module).buffers())
        self._kept = [value.clone() for value in self._buffers]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch, and the batch-norm statistics before the first batch of a step."""
        self._batch, self._batch_idx = batch, batch_idx
        if self.allowed and not self._seen:
            self.means.begin_step()
            torch._foreach_copy_(self._kept, self._buffers)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Remember the loss, which need not be known yet."""
        self._seen.append(Seen(self._batch, self._batch_idx, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the losses and the gradient, and leave the step out where one is not finite.

        Raises:
            SuiteError: one is not finite, and no further step may be left out.
        """
        seen, self._seen = self._seen, []
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        gradients = {} if scaled else {name: value.grad for name, value in self._parameters.items()}
        losses, wrong = _look(seen, gradients)
        for batch, loss in zip(seen, losses, strict=True):
            self.spikes.see(trainer, batch, loss * trainer.accumulate_grad_batches)
        fault = self._fault(trainer, pl_module, seen, losses, wrong)
        if fault is None:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row > self.allowed:
            raise fault
        self._leave_out(trainer.global_step + 1, len(seen))
        (problem,) = fault.problems
        self.faults.note("skipped_steps", f"{problem.what}; the step is left out  ({problem.where})")

    def _leave_out(self, step: int, batches: int) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None  # an optimizer passes over what has none
        torch._foreach_copy_(self._buffers, self._kept)
        self.weights.leave_out(step, batches)
        self.means.leave_out_step()

    def _fault(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        seen: Sequence[Seen],
        losses: Sequence[float],
        wrong: str | None,
    ) -> SuiteError | None:
        """Return what is to be said of a step; `wrong` is the weight whose gradient is not finite."""
        for batch, loss in zip(seen, losses, strict=True):
            if not math.isfinite(loss):
                self.seeds.on_train_batch_start(trainer, pl_module, batch.batch, batch.number)
                blame = _blame(_model(pl_module), batch.batch.images)
                return _error(trainer, batch, f"the loss is {loss}", blame)
        if wrong is None:
            return None
        return _error(trainer, seen[-1], "the gradient is not finite", f"the first such weight is {wrong}")


class LossSpikes:
    """Tells of a loss that is far above those before it: most often a few wrong labels. It changes nothing.

    Args:
        faults: where each is counted.
        factor: times the median of the latest losses.
        window: how many those are.
    """

    def __init__(self, faults: Faults, factor: float = 10.0, window: int = 100):
        self.faults = faults
        self.factor = factor
        self.recent: deque[float] = deque(maxlen=window)

    def see(self, trainer: L.Trainer, seen: Seen, loss: float) -> None:
        """Compare the loss of a batch."""
        if not math.isfinite(loss):
            return
        full = len(self.recent) == self.recent.maxlen
        if full and loss > self.factor * (usual := statistics.median(self.recent)) > 0:
            self.faults.note(
                "loss_spikes",
                f"the loss is {loss:.4g} in {_place(trainer, seen)}; usual is {usual:.4g}  "
                f"({', '.join(_files(trainer, seen.batch))})",
            )
        self.recent.append(loss)


def _model(pl_module: L.LightningModule) -> nn.Module:
    model = pl_module.model
    assert isinstance(model, nn.Module)
    return model


def _look(seen: Sequence[Seen], gradients: Mapping[str, Tensor | None]) -> tuple[list[float], str | None]:
    """Return the losses, and the name of the first weight whose gradient is not finite: one look at all of them."""
    present = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    numbers = [batch.loss.float() for batch in seen]
    if present:
        norms = torch.stack(torch._foreach_norm(list(present.values())))
        numbers.append(norms.isfinite().all().float())
    losses = torch.stack(numbers).tolist()
    if not present or losses.pop():
        return losses, None
    # squares of numbers overflow before they do
    return losses, next((name for name, gradient in present.items() if not bool(gradient.isfinite().all())), None)


def _error(trainer: L.Trainer, seen: Seen, what: str, blame: str) -> SuiteError:
    return SuiteError(
        f"{what} in {_place(trainer, seen)}; {blame}", where=", ".join(_files(trainer, seen.batch)), hint=_HINT
    )


def _place(trainer: L.Trainer, seen: Seen) -> str:
    return f"step {trainer.global_step + 1}, epoch {trainer.current_epoch + 1}, batch {seen.number + 1}"


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
