import logging
import os
from pathlib import Path

import pytest
import torch

from densenet_suite import ConfigError
from densenet_suite.training.checkpointing import SafeCheckpointIO
from densenet_suite.training.faults import Faults, Storage


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return where the last checkpoint and the one before are."""
    return tmp_path / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "previous.ckpt"


@pytest.fixture
def plugin(files: tuple[Path, Path]) -> SafeCheckpointIO:
    return SafeCheckpointIO(*files, Storage(files[0].parents[1], 0, Faults()))


def save(plugin: SafeCheckpointIO, *epochs: int) -> None:
    for epoch in epochs:
        plugin.save_checkpoint({"epoch": epoch, "weight": torch.full((1000,), float(epoch))}, plugin.last)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_reads_back(plugin: SafeCheckpointIO) -> None:
    save(plugin, 4)
    read = plugin.load_checkpoint(plugin.last)
    assert read["epoch"] == 4
    assert torch.equal(read["weight"], torch.full((1000,), 4.0))


@pytest.mark.parametrize("has_links", [True, False])
def test_the_one_before_is_kept(plugin: SafeCheckpointIO, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    def refuse(*names: object) -> None:
        raise OSError("Operation not supported")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    save(plugin, 1, 2, 3)
    assert plugin.load_checkpoint(plugin.last)["epoch"] == 3
    assert plugin.load_checkpoint(plugin.previous)["epoch"] == 2
    assert sorted(file.name for file in plugin.last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_the_best_one_has_none_before_it(plugin: SafeCheckpointIO) -> None:
    save(plugin, 1, 2)
    best = plugin.last.with_name("best.ckpt")
    for epoch in (1, 2):
        plugin.save_checkpoint({"epoch": epoch}, best)
    flip_a_bit(best)
    with pytest.raises(ConfigError, match="checkpoint is damaged"):
        plugin.load_checkpoint(best)


def test_a_failed_write_leaves_the_former_checkpoints(
    plugin: SafeCheckpointIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(plugin, 1, 2)

    def half(checkpoint, file) -> None:
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    save(plugin, 3)
    assert plugin.storage.is_exhausted
    assert [plugin.load_checkpoint(path)["epoch"] for path in (plugin.last, plugin.previous)] == [2, 1]
    assert sorted(file.name for file in plugin.last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_every_damage_is_noticed(plugin: SafeCheckpointIO) -> None:
    save(plugin, 1)
    whole = plugin.last.read_bytes()
    damaged = [whole[: len(whole) * i // 20] for i in range(20)] + [whole[:-1], whole + b"0"]
    for place in torch.randint(8 * len(whole), (50,)).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        plugin.last.write_bytes(content)
        with pytest.raises(ConfigError, match="checkpoint is damaged: it"):
            plugin.load_checkpoint(plugin.last)


def test_a_damaged_last_falls_back_to_the_one_before_and_says_so(
    plugin: SafeCheckpointIO, caplog: pytest.LogCaptureFixture
) -> None:
    save(plugin, 1, 2)
    flip_a_bit(plugin.last)
    with caplog.at_level(logging.WARNING, "densenet_suite"):
        assert plugin.load_checkpoint(plugin.last)["epoch"] == 1
    (message,) = caplog.messages
    for part in (str(plugin.last), str(plugin.previous), "its checksum does not fit its content"):
        assert part in message
    save(plugin, 3)  # the damaged one does not become the one before
    assert [plugin.load_checkpoint(path)["epoch"] for path in (plugin.last, plugin.previous)] == [3, 1]
    assert plugin.last.with_name("damaged-last.ckpt").is_file()


def test_a_missing_last_falls_back_too(plugin: SafeCheckpointIO) -> None:
    save(plugin, 1, 2)
    plugin.last.unlink()
    assert plugin.load_checkpoint(plugin.last)["epoch"] == 1


def test_where_both_are_damaged_both_are_named(plugin: SafeCheckpointIO) -> None:
    save(plugin, 1, 2)
    flip_a_bit(plugin.last)
    plugin.previous.write_bytes(plugin.previous.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match="checkpoint is damaged") as raised:
        plugin.load_checkpoint(plugin.last)
    assert [problem.where for problem in raised.value.problems] == [str(plugin.last), str(plugin.previous)]


def test_nothing_in_a_checkpoint_is_run(plugin: SafeCheckpointIO, tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    plugin.save_checkpoint({"state_dict": Malice()}, plugin.last)
    with pytest.raises(ConfigError, match="checkpoint is damaged: Weights only load failed"):
        plugin.load_checkpoint(plugin.last)
    assert not (tmp_path / "touched").exists()
