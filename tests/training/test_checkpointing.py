from pathlib import Path

import pytest
import torch

from densenet_suite import ConfigError
from densenet_suite.training.checkpointing import AtomicCheckpointIO


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weight": torch.arange(3), "epoch": 4}, path)
    read = AtomicCheckpointIO().load_checkpoint(path)
    assert read["epoch"] == 4
    assert torch.equal(read["weight"], torch.arange(3))


def test_a_failed_write_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def half(checkpoint, file) -> None:
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"state_dict": Malice()}, tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match="checkpoint is damaged"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "touched").exists()
