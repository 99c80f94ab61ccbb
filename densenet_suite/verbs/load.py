"""`load`: a trained model, ready to be called."""

from pathlib import Path
from typing import TYPE_CHECKING

from densenet_suite.modelfile import model_file

if TYPE_CHECKING:
    from densenet_suite.detection.model import EfficientDet


def load(run: str | Path) -> "EfficientDet":
    """Load the model of a run folder or a model file, in evaluation mode; nothing else is needed.

    Raises:
        ConfigError: there is none, or the file is damaged.
    """
    path = model_file(run)

    from densenet_suite.detection.build import load_model

    return load_model(path)[0]
