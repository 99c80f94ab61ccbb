"""Losses and gradients that are not finite: nothing is learned, and the message leads to where they come from."""

import math
from pathlib import Path

import lightning as L
import pytest
import torch

from densenet_suite import ConfigError, EvaluationWeights
from densenet_suite.config.load import load_config
from densenet_suite.errors import SuiteError
from densenet_suite.training.faults import Faults
from densenet_suite.training.finite_steps import LossSpikes, Seen
from densenet_suite.training.fit import fit
from densenet_suite.training.run import Run


class Fault(L.Callback):
    """Plants a fault in the second batch, and remembers the weights and their average from before and after."""

    def __init__(self, plant) -> None:
        self.plant = plant
        self.states: list[dict[str, torch.Tensor]] = []
        self.files: list[str] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 1:
            source = trainer.train_dataloader.dataset.source
            self.files = [str(source.paths[i]) for i in batch.indices]
            self._remember(trainer, pl_module)
            self.plant(pl_module.model, batch)

    def on_exception(self, trainer, pl_module, exception) -> None:
        self._remember(trainer, pl_module)

    def _remember(self, trainer, pl_module) -> None:
        (weights,) = (callback for callback in trainer.callbacks if isinstance(callback, EvaluationWeights))
        state = dict(pl_module.named_parameters()) | {f"average {n}": v for n, v in weights.average.items()}
        self.states.append({name: value.detach().clone() for name, value in state.items()})


def _break_module(model, batch) -> None:
    model.backbone.stages[1][0].register_forward_hook(lambda module, inputs, output: output * math.inf)


def _break_images(model, batch) -> None:
    images = batch.images.float()
    images[0, 0, 3, 5] = math.nan
    object.__setattr__(batch, "images", images)


@pytest.mark.parametrize(
    ("config_name", "plant", "blamed"),
    [
        ("tiny_config", _break_module, "the first module whose output is not finite is backbone.stages.1.0"),
        ("tiny_segmenter_config", _break_images, "the images have values that are not finite"),
    ],
    ids=["module of a detector", "images of a segmenter"],
)
def test_nothing_is_learned_from_it_and_files_and_module_are_named(
    request, tmp_path: Path, config_name: str, plant, blamed: str
) -> None:
    config = load_config(request.getfixturevalue(config_name), [f"output={tmp_path}"])
    run = Run.create(config)
    fault = Fault(plant)
    with pytest.raises(SuiteError, match=r"the loss is (nan|inf) in step 2, epoch 1, batch 2; ") as raised:
        fit(config, run, callbacks=(fault,))
    assert not isinstance(raised.value, ConfigError)
    (problem,) = raised.value.problems
    assert blamed in problem.what
    assert problem.where == ", ".join(fault.files)
    assert len(fault.files) == 4
    before, after = fault.states
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert run.summary["status"] == "failed"
    assert "the loss is" in run.summary["reason"]


class NotFinite(L.Callback):
    """Plants NaN in some batches: in the images, or in the gradient of one weight."""

    def __init__(self, where: str, batches: tuple[int, ...]) -> None:
        self.where = where
        self.batches = batches

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.where == "images" and batch_idx in self.batches:
            _break_images(pl_module.model, batch)

    def on_after_backward(self, trainer, pl_module) -> None:
        if self.where == "gradient" and trainer.fit_loop.batch_idx in self.batches:
            next(pl_module.model.parameters()).grad[0, 0, 0, 0] = math.nan


class States(L.Callback):
    """Remembers everything that a step may change, after each."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx:  # by now everything has seen the batch before
            self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        (weights,) = (callback for callback in trainer.callbacks if isinstance(callback, EvaluationWeights))
        state = dict(pl_module.model.state_dict()) | {f"average {n}": v for n, v in weights.average.items()}
        for i, moments in trainer.optimizers[0].state_dict()["state"].items():
            state |= {f"{i} {n}": torch.as_tensor(v) for n, v in moments.items() if v is not None}
        self.states.append({name: value.detach().clone() for name, value in state.items()})


@pytest.mark.parametrize("where", ["images", "gradient"])
def test_a_step_that_is_left_out_changes_nothing_and_is_counted(tiny_segmenter_config, tmp_path, where, caplog) -> None:
    config = load_config(tiny_segmenter_config, [f"output={tmp_path}", "train.skip_nonfinite=1"])
    run = Run.create(config)
    states = States()
    with caplog.at_level("WARNING", "densenet_suite"):
        fit(config, run, callbacks=(NotFinite(where, (1,)), states))
    first, left_out, third = states.states
    torch.testing.assert_close(left_out, first, rtol=0, atol=0)
    assert any(not torch.equal(third[name], first[name]) for name in first)
    assert all(bool(torch.isfinite(value).all()) for value in third.values() if value.is_floating_point())
    assert run.summary["faults"] == {"skipped_steps": 1}
    assert math.isfinite(run.summary["last"]["train/loss"])
    assert math.isfinite(run.summary["last"]["val/loss"])
    (message,) = (message for message in caplog.messages if "left out" in message)
    assert "step 2, epoch 1, batch 2" in message
    assert message.count(".jpg") == 4
    assert ("images have values that are not finite" if where == "images" else "first such weight is") in message


def test_more_in_a_row_than_allowed_stop_the_run(tiny_segmenter_config, tmp_path) -> None:
    config = load_config(tiny_segmenter_config, [f"output={tmp_path}", "train.skip_nonfinite=1"])
    run = Run.create(config)
    with pytest.raises(SuiteError, match="gradient is not finite in step 3, epoch 1, batch 3"):
        fit(config, run, callbacks=(NotFinite("gradient", (1, 2)),))
    assert run.summary["status"] == "failed"
    assert run.summary["faults"] == {"skipped_steps": 1}


def test_one_bad_batch_of_several_leaves_the_whole_step_out(tiny_segmenter_config, tmp_path, caplog) -> None:
    overrides = [f"output={tmp_path}", "train.skip_nonfinite=1", "train.batch=2", "train.accumulate=2"]
    config = load_config(tiny_segmenter_config, overrides)
    run, states = Run.create(config), States()
    with caplog.at_level("WARNING", "densenet_suite"):
        fit(config, run, callbacks=(NotFinite("images", (2,)), states))
    (message,) = (message for message in caplog.messages if "left out" in message)
    assert "step 2, epoch 1, batch 3; the images have values" in message  # of batches 3 and 4
    assert message.count(".jpg") == 2
    _, first, _, second, _, third = states.states
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert any(not torch.equal(third[name], first[name]) for name in first)


class _Step:
    global_step, current_epoch, train_dataloader = 6, 0, None


class _Batch:
    indices = torch.tensor([3, 5])


def test_a_loss_far_above_the_usual_is_told_with_its_images(caplog) -> None:
    faults = Faults()
    spikes = LossSpikes(faults, factor=10, window=5)

    def see(loss: float) -> None:
        spikes.see(_Step(), Seen(_Batch(), 4, torch.tensor(loss)), loss)

    see(1000.0)  # nothing to compare with yet
    for loss in (1.0, 1.2, 0.9, 1.1):
        see(loss)
    see(9.0)
    assert not faults.counts
    with caplog.at_level("WARNING", "densenet_suite"):
        see(50.0)
    assert faults.counts == {"loss_spikes": 1}
    (message,) = caplog.messages
    assert "the loss is 50 in step 7, epoch 1, batch 5" in message
    assert "3, 5" in message
