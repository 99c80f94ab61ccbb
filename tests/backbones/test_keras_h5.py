"""What Keras itself writes is read in parity/test_backbones_against_keras.py."""

import h5py
import pytest
import torch

from densenet_suite import ConfigError, MissingExtraError
from densenet_suite.backbones import keras_h5
from densenet_suite.backbones.keras_h5 import read_keras_h5, write_keras_h5

TENSORS = {
    "stem_conv.weight": torch.randn(8, 3, 3, 3),
    "stem_bn.weight": torch.randn(8),
    "stem_bn.bias": torch.randn(8),
    "stem_bn.running_mean": torch.randn(8),
    "stem_bn.running_var": torch.rand(8),
    "block1a_dwconv.weight": torch.randn(8, 1, 5, 3),
    "block1a_se_reduce.weight": torch.randn(2, 8, 1, 1),
    "block1a_se_reduce.bias": torch.randn(2),
}


def test_what_is_written_is_read(tmp_path):
    write_keras_h5(tmp_path / "named.h5", TENSORS)
    read = read_keras_h5(tmp_path / "named.h5")
    assert read.keys() == TENSORS.keys()
    assert {name for name in TENSORS if not torch.equal(read[name], TENSORS[name])} == set()


def test_the_layout_is_that_of_the_published_files(tmp_path):
    write_keras_h5(tmp_path / "named.h5", TENSORS)
    with h5py.File(tmp_path / "named.h5") as file:
        assert list(file.attrs["layer_names"])[:2] == ["stem_conv", "stem_bn"]
        assert list(file["stem_bn"].attrs["weight_names"]) == [
            f"stem_bn/{name}:0" for name in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        assert file["stem_conv/stem_conv/kernel:0"].shape == (3, 3, 3, 8)
        assert file["block1a_dwconv/block1a_dwconv/depthwise_kernel:0"].shape == (5, 3, 8, 1)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"weight file does not exist  \(.*absent\.h5\)"):
        read_keras_h5(tmp_path / "absent.h5")


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "damaged.h5").write_bytes(b"not HDF5")
    with pytest.raises(ConfigError, match=r"weight file is damaged: .*  \(.*damaged\.h5\)\n  hint: download it again"):
        read_keras_h5(tmp_path / "damaged.h5")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_h5, "is_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"reading Keras weight files(.|\n)*densenet-suite\[keras\]"):
        read_keras_h5(tmp_path / "named.h5")
    with pytest.raises(MissingExtraError, match=r"writing Keras weight files(.|\n)*densenet-suite\[keras\]"):
        write_keras_h5(tmp_path / "named.h5", TENSORS)
