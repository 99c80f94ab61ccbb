"""A loss that is not finite: nothing is learned from it, and the message leads to where it comes from."""

import math
from pathlib import Path

import lightning as L
import pytest
import torch

from densenet_suite import ConfigError, EvaluationWeights
from densenet_suite.config.load import load_config
from densenet_suite.errors import SuiteError
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
