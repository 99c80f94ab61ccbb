"""`doctor`: what is installed and what this machine can do, ready to be pasted into an issue."""

import shutil
from pathlib import Path
from typing import Any

from densenet_suite.installed import is_installed
from densenet_suite.training.run import environment

EXTRAS = {
    "fast-eval": "hotcoco",
    "geo": "rasterio",
    "tensorboard": "tensorboard",
    "keras": "h5py",
    "onnx": "onnxruntime",
    "ray": "ray",
}


def doctor() -> dict[str, Any]:
    """Return versions, devices, extras, and the free space of the working folder."""
    import torch

    found = environment()
    del found["started"], found["command"]
    mps = torch.backends.mps.is_available()
    return {
        **found,
        "devices": ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if mps else [])],
        "bf16_on_gpu": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "extras": {extra: is_installed(package) for extra, package in EXTRAS.items()},
        "free_disk_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
    }
