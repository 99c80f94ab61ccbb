from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from densenet_suite import ConfigError, EvaluationWeights


class OtherNorm(nn.modules.batchnorm._BatchNorm):
    """Another kind of batch norm, as SyncBatchNorm is one, which needs GPUs."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Take any."""


class Net(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = norm(4)
        self.fixed = nn.BatchNorm2d(4)

    def forward(self, images):
        return self.fixed(self.norm(self.conv(images)))


class Fit:
    """A training without Lightning: what the callback sees of one."""

    def __init__(self, callback: EvaluationWeights, norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        self.callback = callback
        self.module = SimpleNamespace(model=Net(norm).train())
        self.module.model.fixed.eval()
        self.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1, sanity_checking=False)
        self.trainer.state = SimpleNamespace(fn="fit")
        callback.on_train_start(self.trainer, self.module)

    @property
    def model(self) -> Net:
        return self.module.model

    def step(self, images, *, updates: bool = True) -> None:
        self.callback.on_train_batch_start(self.trainer, self.module, SimpleNamespace(images=images), 0)
        if updates:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.add_(torch.randn_like(parameter))
            self.trainer.global_step += 1
        self.callback.on_train_batch_end(self.trainer, self.module, None, None, 0)

    def judged(self) -> dict[str, torch.Tensor]:
        with self.callback.applied(self.trainer, self.module):
            return {name: value.clone() for name, value in self.model.state_dict().items()}


def test_the_average_follows_its_definition() -> None:
    fit = Fit(EvaluationWeights(0.9, 4))
    expected = fit.model.conv.weight.detach().clone().double()
    for n in range(1, 30):
        fit.step(torch.rand(2, 3, 4, 4))
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * fit.model.conv.weight.detach().double()
    torch.testing.assert_close(fit.judged()["conv.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_accumulated_batches_do_not_move_the_average() -> None:
    fit = Fit(EvaluationWeights(0.9, 4))
    fit.step(torch.rand(2, 3, 4, 4))
    before = fit.judged()["conv.weight"]
    fit.step(torch.rand(2, 3, 4, 4), updates=False)
    assert torch.equal(fit.judged()["conv.weight"], before)
    assert fit.callback.updates == 1


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, OtherNorm])
def test_statistics_are_those_of_the_judged_weights_on_the_latest_images(
    decay: float, norm: Callable[[int], nn.Module]
) -> None:
    fit = Fit(EvaluationWeights(decay, 6), norm)
    batches = [torch.rand(4, 3, 5, 5) for _ in range(4)]
    for batch in batches:
        fit.step(batch)
    judged = fit.judged()
    latest = torch.cat(batches)[-6:]
    maps = torch.einsum("oi,bihw->obhw", judged["conv.weight"][:, :, 0, 0], latest) + judged["conv.bias"].view(
        -1, 1, 1, 1
    )
    torch.testing.assert_close(judged["norm.running_mean"], maps.flatten(1).mean(1))
    torch.testing.assert_close(judged["norm.running_var"], maps.flatten(1).var(1))


def test_frozen_norms_keep_their_statistics() -> None:
    fit = Fit(EvaluationWeights(0.9, 4))
    fit.step(torch.rand(4, 3, 5, 5) + 7)
    assert torch.equal(fit.judged()["fixed.running_mean"], torch.zeros(4))


def test_training_weights_return_after_an_evaluation() -> None:
    fit = Fit(EvaluationWeights(0.9, 4))
    fit.step(torch.rand(4, 3, 5, 5))
    before = {name: value.clone() for name, value in fit.model.state_dict().items()}
    modes = [module.training for module in fit.model.modules()]
    fit.callback.on_validation_start(fit.trainer, fit.module)
    assert not torch.equal(fit.model.conv.weight, before["conv.weight"])
    fit.callback.on_validation_end(fit.trainer, fit.module)
    torch.testing.assert_close(dict(fit.model.state_dict()), before, rtol=0, atol=0)
    assert [module.training for module in fit.model.modules()] == modes
    assert fit.model.norm.momentum == 0.1


def test_training_weights_return_when_an_evaluation_fails() -> None:
    fit = Fit(EvaluationWeights(0.9, 4))
    fit.step(torch.rand(4, 3, 5, 5))
    before = fit.model.conv.weight.detach().clone()
    fit.callback.on_validation_start(fit.trainer, fit.module)
    fit.callback.on_exception(fit.trainer, fit.module, RuntimeError("out of memory"))
    assert torch.equal(fit.model.conv.weight, before)


def test_a_checkpoint_carries_average_and_ramp() -> None:
    fit = Fit(EvaluationWeights(0.9, 4))
    for _ in range(3):
        fit.step(torch.rand(2, 3, 4, 4))
    resumed = EvaluationWeights(0.9, 4)
    resumed.load_state_dict(fit.callback.state_dict())
    again = Fit(resumed)
    assert resumed.updates == 3
    assert torch.equal(again.judged()["conv.weight"], fit.judged()["conv.weight"])


@pytest.mark.parametrize("batches", [1, 5])
def test_the_first_scores_after_a_resume_have_the_statistics_of_the_latest_images(batches: int) -> None:
    fit = Fit(EvaluationWeights(0.9, 6))
    for _ in range(batches):
        fit.step(torch.rand(4, 3, 5, 5))
    checkpoint: dict = {}
    fit.callback.on_save_checkpoint(fit.trainer, fit.module, checkpoint)
    resumed = EvaluationWeights(0.9, 6)
    resumed.load_state_dict(fit.callback.state_dict())
    resumed.on_load_checkpoint(fit.trainer, fit.module, checkpoint)
    again = Fit(resumed)
    again.model.load_state_dict(fit.model.state_dict())
    torch.testing.assert_close(again.judged(), fit.judged(), rtol=0, atol=0)


def test_an_average_without_statistics_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="statistics renewed"):
        EvaluationWeights(0.9, 0)
