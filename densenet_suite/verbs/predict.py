"""`predict`: the objects in new pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_suite.errors import ConfigError
from densenet_suite.images import find_images
from densenet_suite.modelfile import model_file

if TYPE_CHECKING:
    from densenet_suite.detection.prediction import Prediction


def predict(
    run: str | Path,
    source: str | Path,
    *,
    score_threshold: float = 0.3,
    max_detections: int = 100,
    batch: int = 8,
    device: str | None = None,
) -> "Iterator[Prediction]":
    """Find objects in files, lazily: a folder of any size needs the memory of one batch.

    Args:
        run: a run folder or a model file.
        source: a file, a folder, or a shell pattern.
        score_threshold: lowest score.
        max_detections: per picture.
        batch: pictures at a time.
        device: such as "cuda:1"; None for the best there is.

    Yields:
        a Prediction for each file, in sorted order.

    Raises:
        ConfigError: there is no trained model.
        DataError: there are no pictures; or, after all others have been yielded, some could not be read.
    """
    if not 0 <= score_threshold <= 1:
        raise ConfigError(f"score_threshold is {score_threshold}, a score is between 0 and 1")
    path, files = model_file(run), find_images(source)
    return _predictions(path, files, score_threshold, max_detections, batch, device)


def _predictions(
    path: Path,
    files: Sequence[Path],
    score_threshold: float,
    max_detections: int,
    batch: int,
    device: str | None,
) -> "Iterator[Prediction]":
    import torch

    from densenet_suite.detection.build import load_model
    from densenet_suite.detection.postprocess import Postprocess
    from densenet_suite.detection.prediction import Predictor

    model, card = load_model(path)
    height, width = card["input_size"]
    best = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = Postprocess(score_threshold=score_threshold, max_detections=max_detections)
    yield from Predictor(model, (height, width), chosen, device or best, batch)(files)
