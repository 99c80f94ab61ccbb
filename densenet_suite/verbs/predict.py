"""`predict`: what is in new pictures, objects or a class for every pixel, whichever the model was trained for."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

from densenet_suite.errors import ConfigError
from densenet_suite.images import find_images
from densenet_suite.modelfile import model_file, read_card
from densenet_suite.volumes.scenes import find_scenes

if TYPE_CHECKING:
    from torch import nn

    from densenet_suite.detection.prediction import Prediction
    from densenet_suite.segmentation.prediction import Segmentation

Precision = Literal["float32", "bfloat16"]
Model = TypeVar("Model", bound="nn.Module")
# arguments of predict that mean nothing to the other task
_OF_DETECTION = ("score_threshold", "max_detections")
_OF_SEGMENTATION = ("tile", "overlap")


class _How(NamedTuple):
    """How a network runs."""

    device: str | None
    precision: Precision
    cuda_graphs: bool


def predict(
    run: str | Path,
    source: str | Path,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    batch: int | None = None,
    device: str | None = None,
    precision: Precision = "float32",
    cuda_graphs: bool = False,
) -> "Iterator[Prediction | Segmentation]":
    """Look at files with a trained model, lazily: a folder of any size needs the memory of one batch.

    Args:
        run: a run folder or a model file.
        source: a file, a folder, or a shell pattern. Of a segmenter also NIfTI and DICOM volumes.
        score_threshold: of a detector: lowest score; 0.3 if None.
        max_detections: of a detector: per picture; 100 if None.
        tile: of a segmenter: side of what goes through the network at a time, in pixels as it sees them; 512 if None.
        overlap: of a segmenter: of neighbouring tiles, at least; a quarter of the tile if None.
        batch: pictures, or tiles, at a time; if None 8 pictures, or a tile on a CPU and 4 on a GPU.
        device: such as "cuda:1"; None for the best there is.
        precision: of the network: "float32", or "bfloat16", which is faster where the processor has it, and moves
            scores in their third digit.
        cuda_graphs: launch the network on the GPU at once, which is faster for small batches of one size.

    Yields:
        a Prediction or a Segmentation for each file, in sorted order, and for each slice of a volume. A Segmentation
        computes when it is asked for its rows or its mask.

    Raises:
        ConfigError: there is no trained model, an argument is of the other task, the precision is neither, or there
            is no GPU for CUDA graphs.
        DataError: there are no pictures; or, after all others have been yielded, some could not be read.
    """
    path = model_file(run)
    task = task_of(path)
    given = {"score_threshold": score_threshold, "max_detections": max_detections, "tile": tile, "overlap": overlap}
    for name in _OF_SEGMENTATION if task == "detection" else _OF_DETECTION:
        if given[name] is not None:
            raise ConfigError(f"{name} means nothing to a model of {task}", where=str(path), hint=f"leave {name} out")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ConfigError(f"score_threshold is {score_threshold}, a score is between 0 and 1")
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is {precision!r}, it is one of {', '.join(get_args(Precision))}")
    if cuda_graphs and not (where := _device(device)).startswith("cuda"):
        raise ConfigError(
            f"CUDA graphs need a GPU of NVIDIA's, and this is to run on {where}", hint="leave cuda_graphs out"
        )
    how = _How(device, precision, cuda_graphs)
    files = find_images(source) if task == "detection" else find_scenes(source)
    if task == "detection":
        threshold = 0.3 if score_threshold is None else score_threshold
        return _detections(path, files, threshold, max_detections or 100, batch or 8, how)
    return _segmentations(path, files, tile or 512, overlap, batch, how)


def save_results(
    run: str | Path, predictions: "Iterable[Any]", out: str | Path, outputs: Sequence[str] | None = None
) -> Iterator[Any]:
    """Write what `predict` yields to a folder while it passes through.

    Args:
        run: the run folder or model file that predicted.
        predictions: from `predict`.
        out: the folder; made if it is missing.
        outputs: of a detector "pictures", "coco", "csv" (all three if None); of a segmenter "masks", "overlays" (these
            two if None), "probabilities", "uncertainty".

    Yields:
        each prediction, once it is written.

    Raises:
        ConfigError: an unknown output.
    """
    if task_of(model_file(run)) == "detection":
        from densenet_suite.detection.prediction_files import OUTPUTS, save_predictions

        return save_predictions(predictions, out, outputs or OUTPUTS)
    from densenet_suite.segmentation.prediction_files import save_segmentations

    return save_segmentations(predictions, out, outputs or ("masks", "overlays"))


def task_of(path: Path) -> str:
    """Return what a model file is for.

    Raises:
        ConfigError: it is none of ours.
    """
    card = read_card(path)
    if card is None:
        raise ConfigError(
            "not a model file of densenet_suite",
            where=str(path),
            hint="foreign weights load through create_detector and create_segmenter",
        )
    return str(card["task"])


def _detections(
    path: Path,
    files: Sequence[Path],
    score_threshold: float,
    max_detections: int,
    batch: int,
    how: _How,
) -> "Iterator[Prediction]":
    from densenet_suite.detection.build import load_model
    from densenet_suite.detection.postprocess import Postprocess
    from densenet_suite.detection.prediction import Predictor

    model, card = load_model(path)
    height, width = card["input_size"]
    chosen = Postprocess(score_threshold=score_threshold, max_detections=max_detections)
    yield from Predictor(_prepared(model, how), (height, width), chosen, _device(how.device), batch)(files)


def _segmentations(
    path: Path,
    files: Sequence[Path],
    tile: int,
    overlap: int | None,
    batch: int | None,
    how: _How,
) -> "Iterator[Segmentation]":
    from densenet_suite.segmentation.build import load_model
    from densenet_suite.segmentation.prediction import SegmentationPredictor

    model, card = load_model(path)
    where = _device(how.device)
    yield from SegmentationPredictor(
        _prepared(model, how),
        tile=(tile, tile),
        overlap=tile // 4 if overlap is None else overlap,
        scale=card["scale"],
        device=where,
        batch=batch or (1 if where == "cpu" else 4),
    )(files)


def _prepared(model: Model, how: _How) -> Model:
    import torch

    from densenet_suite.cuda_graphs import replay_
    from densenet_suite.fusing import fuse

    fused = fuse(model, {"float32": torch.float32, "bfloat16": torch.bfloat16}[how.precision])
    return replay_(fused) if how.cuda_graphs else fused


def _device(named: str | None) -> str:
    import torch

    return named or ("cuda" if torch.cuda.is_available() else "cpu")
