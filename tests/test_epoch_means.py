"""Means of losses over an epoch; tests/training/test_fit.py stops and resumes runs with them."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from densenet_suite.epoch_means import EpochMeans


class Module(L.LightningModule):
    """Adds what it is given, and leaves the second batch out where it is told to."""

    def __init__(self, *, leaves_out=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.means = EpochMeans()
        self.leaves_out = leaves_out

    def configure_callbacks(self):
        return [self.means]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_idx):
        (values,) = batch
        self.means.begin_step()
        self.means.add({"loss": values.mean(), "twice": 2 * values.mean()}, len(values))
        if self.leaves_out and batch_idx == 1:
            self.means.leave_out_step()
        return self.weight.sum() * 0


def logged_by(module, epochs=1):
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(values), batch_size=2))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_image_of_an_epoch_counts_once(epochs):
    assert logged_by(Module(), epochs) == {"loss": 4.0, "twice": 8.0}


def test_a_step_that_is_left_out_counts_for_nothing():
    assert logged_by(Module(leaves_out=True)) == {"loss": pytest.approx(13 / 3), "twice": pytest.approx(26 / 3)}


def test_sums_go_through_a_checkpoint():
    trainer, checkpoint = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), {}
    before, after = EpochMeans(), EpochMeans()
    before.add({"loss": torch.tensor(1.5)}, 2)
    before.on_save_checkpoint(trainer, None, checkpoint)
    after.on_load_checkpoint(trainer, None, checkpoint)
    for means in (before, after):
        means.add({"loss": torch.tensor(0.1)}, 3)
    assert torch.equal(before._sums.totals, after._sums.totals)
    assert before._sums.images == after._sums.images == 5


def test_terms_are_the_same_in_every_batch():
    means = EpochMeans()
    means.add({"loss": torch.tensor(1.0)}, 1)
    with pytest.raises(AssertionError, match="the terms are"):
        means.add({"other": torch.tensor(1.0)}, 1)
