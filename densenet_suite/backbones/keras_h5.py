"""Keras weight files as tensors with PyTorch's names for variables and axes: "<layer>.weight", OIHW.

Read and written are files that name their layers (`model.save("x.h5")`, and the published `*_notop.h5`). Keras 3's
`*.weights.h5` and `*.keras` number the layers of each class, and are refused with a way out.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from densenet_suite.errors import ConfigError, MissingExtraError
from densenet_suite.installed import is_installed

KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
_VARIABLES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def read_keras_h5(path: Path) -> dict[str, Tensor]:
    """Read a file that names its layers.

    Raises:
        ConfigError: the file is missing, damaged, or numbers its layers instead.
        MissingExtraError: h5py is not installed.
    """
    if not is_installed("h5py"):
        raise MissingExtraError("reading Keras weight files", "keras")
    import h5py

    if not path.is_file():
        raise ConfigError("weight file does not exist", where=str(path))
    if is_zipfile(path):  # what Keras 3 writes as .keras
        raise _unnamed(path)
    arrays: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: arrays.update({name: item[()]}) if hasattr(item, "shape") else None)
    except OSError as error:
        raise ConfigError(f"weight file is damaged: {error}", where=str(path), hint="download it again") from error
    if any("/vars/" in name for name in arrays):
        raise _unnamed(path)
    tensors = {}
    for name, array in arrays.items():
        *_, layer, variable = name.split("/")
        variable = variable.removesuffix(":0")
        if variable in _VARIABLES:
            tensors[f"{layer}.{_VARIABLES[variable]}"] = _to_torch(layer, np.asarray(array))
    return tensors


def _unnamed(path: Path) -> ConfigError:
    return ConfigError(
        "file numbers its layers instead of naming them",
        where=str(path),
        hint='in Keras, load it into the model and write model.save("named.h5")',
    )


def write_keras_h5(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors named by Keras layers ("stem_conv.weight") in the layout of the published files.

    Raises:
        MissingExtraError: h5py is not installed.
    """
    if not is_installed("h5py"):
        raise MissingExtraError("writing Keras weight files", "keras")
    import h5py

    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, variable = name.rpartition(".")
        layers.setdefault(layer, {})[variable] = tensor
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, variables in layers.items():
            group = file.create_group(layer)
            named = dict(_to_keras(layer, variables))
            group.attrs["weight_names"] = [f"{layer}/{variable}:0".encode() for variable in named]
            for variable, array in named.items():
                group.create_dataset(f"{layer}/{variable}:0", data=array)


def _to_torch(layer: str, array: np.ndarray[Any, Any]) -> Tensor:
    if array.ndim == 4:
        array = array.transpose((2, 3, 0, 1) if _is_depthwise(layer) else (3, 2, 0, 1))
    elif array.ndim == 2:
        array = array.T
    return torch.from_numpy(np.ascontiguousarray(array))


def _to_keras(layer: str, variables: Mapping[str, Tensor]) -> Iterable[tuple[str, np.ndarray[Any, Any]]]:
    norm = "running_mean" in variables
    kernel = "depthwise_kernel" if _is_depthwise(layer) else "kernel"
    keras = {"weight": "gamma" if norm else kernel, "bias": "beta" if norm else "bias"}
    keras |= {"running_mean": "moving_mean", "running_var": "moving_variance"}
    for variable, name in keras.items():
        if variable in variables:
            array = variables[variable].detach().cpu().numpy()
            if array.ndim == 4:
                array = array.transpose((2, 3, 0, 1) if _is_depthwise(layer) else (2, 3, 1, 0))
            yield name, array


def _is_depthwise(layer: str) -> bool:
    return layer.endswith(("dwconv", "dwconv2"))
