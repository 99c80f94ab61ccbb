"""`export`: a trained model as one file for another runtime, run and compared with the model before it is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from densenet_suite.errors import ConfigError, MissingExtraError
from densenet_suite.files import atomic_write
from densenet_suite.installed import is_installed
from densenet_suite.modelfile import model_file, read_card
from densenet_suite.registry import did_you_mean
from densenet_suite.verbs.predict import task_of

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def export(
    run: str | Path,
    format: str = "onnx",
    *,
    out: str | Path | None = None,
    size: Sequence[int] | None = None,
    dynamic: bool = False,
    batch: int | str = 1,
    pixels: str | None = None,
    nms: bool = False,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Path:
    """Write a trained model as one file that needs none of our code, and return its path.

    The file takes pixel values [b c h w] and normalises them itself. A detector gives `boxes` [b n 4], xyxy in pixels
    of the input, and `scores` [b n k] from 0 to 1 of all anchors, or with `nms` the final detections of each image. A
    segmenter gives `probabilities` [b k h w]. Classes, statistics and sizes are written into it: the metadata of an
    ONNX file, or densenet_suite.json inside of a .pt2.

    Args:
        run: a run folder or a model file.
        format: "onnx" (the extra `onnx`) or "torch", a program of torch.export.
        out: the file; None for one beside the model file.
        size: (height, width) of the images; None for those of the training.
        dynamic: take any size that is a multiple of the network's largest stride, and at least twice that.
        batch: number of images; "dynamic" for any.
        pixels: "uint8" or "float32"; None for bytes where the largest pixel value is 255.
        nms: of a detector, in ONNX: choose the detections inside, as `predict` does.
        score_threshold: with `nms`: lowest score; 0.3 if None.
        max_detections: with `nms`: per image; 100 if None.

    Raises:
        ConfigError: there is no trained model, or an argument is wrong or means nothing here.
        MissingExtraError: a package is not installed.
        SuiteError: the network cannot be exported, or the file would give other answers. Nothing is written then.
    """
    path = model_file(run)
    task = task_of(path)
    card = read_card(path) or {}
    kind = _format(format)
    _check_choice(task, kind, score_threshold, max_detections, nms=nms)
    target = _target(path, SUFFIXES[kind], out)
    of_pixels = _pixels(pixels)
    height, width = _size(size, card["input_size"], dynamic=dynamic)
    number = _batch(batch)
    if kind == "onnx" and not all(is_installed(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        raise MissingExtraError("exporting to ONNX", "onnx")

    from densenet_suite import __version__
    from densenet_suite.detection.postprocess import Postprocess
    from densenet_suite.exporting.build import ExportPlan, export_inputs, export_network
    from densenet_suite.verbs.load import load

    model = load(path)
    inputs = export_inputs(model, (height, width), dynamic=dynamic, batch=number, pixels=of_pixels)
    postprocess = None
    if nms:
        threshold = 0.3 if score_threshold is None else score_threshold
        postprocess = Postprocess(score_threshold=threshold, max_detections=max_detections or 100)
    facts: dict[str, Any] = {name: card[name] for name in ("input_size", "scale") if name in card}
    content = export_network(model, ExportPlan(kind, inputs, postprocess), __version__, facts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(content)
    return target


def _format(name: str) -> Literal["onnx", "torch"]:
    if name == "onnx":
        return "onnx"
    if name == "torch":
        return "torch"
    raise ConfigError(f"unknown format {name!r}", hint=did_you_mean(name, SUFFIXES) or "onnx or torch")


def _pixels(name: str | None) -> Literal["uint8", "float32"] | None:
    if name is None:
        return None
    if name == "uint8":
        return "uint8"
    if name == "float32":
        return "float32"
    raise ConfigError(f"unknown type of pixels {name!r}", hint="uint8 or float32")


def _check_choice(
    task: str, kind: str, score_threshold: float | None, max_detections: int | None, *, nms: bool
) -> None:
    if nms and task != "detection":
        raise ConfigError(f"nms means nothing to a model of {task}", hint="leave nms out")
    if nms and kind != "onnx":
        raise ConfigError(
            f"nms is a part of ONNX files, and format is {kind}",
            hint="leave nms out; densenet_suite.Postprocess chooses from boxes and scores",
        )
    for name, value in (("score_threshold", score_threshold), ("max_detections", max_detections)):
        if value is not None and not nms:
            raise ConfigError(f"{name} means nothing without nms", hint=f"give nms too, or leave {name} out")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ConfigError(f"score_threshold is {score_threshold}, a score is between 0 and 1")
    if max_detections is not None and max_detections < 1:
        raise ConfigError(f"max_detections is {max_detections}, it is at least 1")


def _target(model: Path, suffix: str, out: str | Path | None) -> Path:
    target = model.with_suffix(suffix) if out is None else Path(out)
    if target.suffix != suffix:
        raise ConfigError(
            f"out is {target}, and the file's name ends in {suffix}", hint=f"such as {target.with_suffix(suffix)}"
        )
    return target


def _size(size: Sequence[int] | None, trained: Sequence[int], *, dynamic: bool) -> tuple[int, int]:
    if size is not None and dynamic:
        raise ConfigError("size and dynamic exclude each other", hint="leave one of them out")
    sides = trained if size is None else size
    if len(sides) != 2 or min(sides) < 1:
        raise ConfigError(
            f"size is {' '.join(str(side) for side in sides)}, it is a height and a width of at least one pixel",
            hint=f"such as {trained[0]} {trained[1]}, which the model was trained at",
        )
    return sides[0], sides[1]


def _batch(batch: int | str) -> int | None:
    if batch == "dynamic":
        return None
    if not isinstance(batch, int) or batch < 1:
        raise ConfigError(f"batch is {batch}, it is a number of images from 1 on, or dynamic")
    return batch
