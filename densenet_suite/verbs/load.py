"""`load`: a trained model, ready to be called."""

from pathlib import Path
from typing import TYPE_CHECKING

from densenet_suite.modelfile import model_file
from densenet_suite.verbs.predict import task_of

if TYPE_CHECKING:
    from densenet_suite.detection.model import EfficientDet
    from densenet_suite.segmentation.model import Segmenter


def load(run: str | Path) -> "EfficientDet | Segmenter":
    """Load the model of a run folder or a model file, in evaluation mode; nothing else is needed.

    Raises:
        ConfigError: there is none, or the file is damaged.
    """
    path = model_file(run)
    task = task_of(path)

    from densenet_suite.training.slices import SLICES

    model: EfficientDet | Segmenter = SLICES[task].load(path)[0]
    return model
