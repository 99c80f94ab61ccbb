import argparse
import io
import pickle
from contextlib import suppress
from pathlib import Path

import lightning
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from densenet_suite import ConfigError
from densenet_suite.weightfiles import LoadReport, read_tensors, under_prefix

TENSORS = {"a.weight": torch.arange(3.0), "a.bias": torch.ones(2)}


def same(read):
    return read.keys() == TENSORS.keys() and all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def torch_bytes(content, **how):
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": TENSORS},
        {"model": {"state_dict": TENSORS}},
        {"state_dict_ema": TENSORS, "state_dict": {"a.weight": torch.zeros(1)}},
        {"model_state_dict": TENSORS, "args": argparse.Namespace(lr=0.1)},
        {**TENSORS, "version": 3},
    ],
)
def test_a_state_dict_is_found_in_its_wrappers(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    assert same(read_tensors(tmp_path / "a.pth"))


def test_pytorchs_old_format_is_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(torch_bytes(TENSORS, _use_new_zipfile_serialization=False))
    assert same(read_tensors(tmp_path / "a.pth"))


def test_safetensors_are_read(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert same(read_tensors(str(tmp_path / "a.safetensors")))


def test_a_lightning_checkpoint_is_read(tmp_path):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module = Module()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(read_tensors(tmp_path / "a.ckpt")["layer.weight"], module.layer.weight)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"weight file does not exist  \(.*absent\.pth\)"):
        read_tensors(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><html>404</html>", b'{"a": 1}', b"PK\x03\x04", torch_bytes(TENSORS)[:300]],
)
def test_a_damaged_file_is_refused(content, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"damaged or not a PyTorch file.*  \(.*a\.pth\)\n  hint: download it again"):
        read_tensors(tmp_path / "a.pth")


def test_damaged_safetensors_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"weight file is damaged: .*  \(.*a\.safetensors\)"):
        read_tensors(tmp_path / "a.safetensors")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.booleans(), cut=st.integers(1, 100), changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)))
)
def test_whatever_happened_to_the_bytes_the_error_is_ours(old, cut, changes, tmp_path):
    content = bytearray(torch_bytes(TENSORS, _use_new_zipfile_serialization=not old))
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "a.pth"
    path.write_bytes(content[: len(content) * cut // 100])
    with suppress(ConfigError):
        read_tensors(path)


class Shell:
    """What a malicious file would contain."""

    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize("content", [{**TENSORS, "x": Shell()}, Shell(), {**TENSORS, "x": nn.Linear(1, 1)}])
def test_a_file_that_needs_code_is_refused_and_not_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "a.pth")
    message = (
        r"needs code to be unpickled, which could do anything, and is refused: [\w.]*(Path|Linear|getattr)\S*  "
        r"\(a\.pth\)\n  hint: where you trust its origin, load it yourself and save the state dict alone"
    )
    with pytest.raises(ConfigError, match=message):
        read_tensors("a.pth")
    assert not Path("owned").exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(pickle.dumps(Shell(), protocol=2))
    with pytest.raises(ConfigError, match=r"a\.pth"):
        read_tensors("a.pth")
    assert not Path("owned").exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {}}])
def test_a_file_without_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=r"file holds no named tensors  \(.*a\.pth\)\n  hint: give a state dict"):
        read_tensors(tmp_path / "a.pth")


def test_a_network_is_found_under_its_prefix_and_the_rest_is_told():
    one = torch.ones(1)
    tensors = {"net.encoder.stem.w": one, "net.encoder.last.w": one, "net.decoder.w": one}
    assert under_prefix(tensors, "stem.w") == ({"stem.w": one, "last.w": one}, ["net.decoder.w"])


def test_a_fingerprint_is_a_whole_name():
    assert under_prefix({"system.w": torch.ones(1)}, "stem.w") is None


def test_the_shortest_prefix_wins():
    tensors = {"teacher.student.stem.w": torch.zeros(1), "stem.w": torch.ones(1)}
    inside, beside = under_prefix(tensors, "stem.w")
    assert (inside["stem.w"], beside) == (torch.ones(1), [])


def test_a_report_says_what_became_of_the_tensors():
    report = LoadReport("a.pth", 7, ["stem to 4 bands"], [f"head.{i}" for i in range(6)])
    assert str(report).splitlines() == [
        "weights from a.pth: 7 tensors loaded",
        "  adapted: stem to 4 bands",
        "  left out: head.0, head.1, head.2, head.3 and 2 more",
    ]
