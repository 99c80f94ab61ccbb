import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from densenet_suite.errors import ConfigError
from densenet_suite.modelfile import FORMAT, model_file, read_card, write_model_file

CARD = {"classes": ["Straße", "car"], "size": [64, 96], "ids": [2**63, 1]}


def _header(content):
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


def test_tensors_and_card_read_back(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    write_model_file(tmp_path / "model.safetensors", tensors, CARD)
    back = load_file(tmp_path / "model.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert read_card(tmp_path / "model.safetensors") == {"format": FORMAT, **CARD}


@pytest.mark.parametrize("layout", [torch.Tensor.t, lambda t: t.requires_grad_(), lambda t: t.expand(3, 3, 4)])
def test_any_tensor_can_be_written(tmp_path, layout):
    tensor = layout(torch.randn(3, 4))
    write_model_file(tmp_path / "model.safetensors", {"a": tensor}, {})
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], tensor)


def test_channels_last_weights_read_back(tmp_path):
    tensor = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    write_model_file(tmp_path / "model.safetensors", {"a": tensor}, {})
    assert torch.equal(load_file(tmp_path / "model.safetensors")["a"], tensor)


def test_a_card_that_is_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_model_file(path, {"a": torch.ones(1)}, {"score": 0.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_model_file(path, {"a": torch.zeros(1)}, {"score": float("nan")})
    assert read_card(path)["score"] == 0.5


def test_a_file_of_a_newer_version_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "new", {"densenet_suite": json.dumps({"format": FORMAT + 1})})
    with pytest.raises(ConfigError, match=rf"has format {FORMAT + 1}, this version reads up to {FORMAT}") as caught:
        read_card(tmp_path / "new")
    assert caught.value.problems[0].where == str(tmp_path / "new")
    assert caught.value.problems[0].hint == "pip install --upgrade densenet-suite"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        b"<html>not found</html>",
        struct.pack("<Q", 2**60) + b"{}",
        _header([]),
        _header({}),
        _header({"__metadata__": {"format": "pt"}}),
        struct.pack("<Q", 50) + b'{"__metadata__": {"densen',
        b"\x04\x00\x00\x00\x00\x00\x00\x00\xff\xfe\xff\xfe",
    ],
    ids=["empty", "short", "html", "huge", "list", "no metadata", "timm's", "cut off", "binary"],
)
def test_a_file_that_is_not_ours_has_no_card(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert read_card(tmp_path / "file") is None


def test_a_file_that_is_not_there_has_no_card(tmp_path):
    assert read_card(tmp_path / "nothing") is None
    assert read_card(tmp_path) is None


def test_a_card_is_read_without_torch(tmp_path):
    write_model_file(tmp_path / "model", {"a": torch.ones(1)}, CARD)
    code = (
        "import sys; from densenet_suite.modelfile import read_card; "
        f"card = read_card({str(tmp_path / 'model')!r}); print(card['size'], 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[64, 96] False"


def test_a_run_folder_means_its_best_weights(tmp_path):
    (tmp_path / "weights").mkdir()
    weights = tmp_path / "weights" / "best.safetensors"
    weights.touch()
    assert model_file(tmp_path) == model_file(weights) == weights


def test_a_run_folder_without_weights_says_what_to_wait_for(tmp_path):
    with pytest.raises(ConfigError, match="run folder holds no trained model") as caught:
        model_file(tmp_path)
    assert caught.value.problems[0].where == str(tmp_path / "weights" / "best.safetensors")
    assert caught.value.problems[0].hint == "let the training finish its first epoch"


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such run folder or model file") as caught:
        model_file(tmp_path / "runs" / "x-001")
    assert caught.value.problems[0].where == str(tmp_path / "runs" / "x-001")
