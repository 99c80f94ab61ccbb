from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from densenet_suite.batch import TensorBatch


@dataclass(frozen=True)
class _Batch(TensorBatch):
    images: Tensor
    indices: Tensor
    name: str


@pytest.fixture
def batch():
    return _Batch(torch.ones(2, 3), torch.tensor([4, 5]), "train")


def test_to_moves_every_tensor_and_nothing_else(batch):
    moved = batch.to("meta")
    assert (moved.images.device.type, moved.indices.device.type, moved.name) == ("meta", "meta", "train")
    assert batch.images.device.type == "cpu"


def test_lightning_moves_a_batch(batch):
    assert move_data_to_device(batch, torch.device("meta")).images.device.type == "meta"


def test_a_loader_pins_every_tensor_of_a_batch(batch, monkeypatch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor + 1)
    result = pin_memory(batch)
    assert isinstance(result, _Batch)
    assert len(pinned) == 2
    assert result.indices.tolist() == [5, 6]


def test_a_batch_is_frozen(batch):
    with pytest.raises(FrozenInstanceError):
        batch.name = "val"
