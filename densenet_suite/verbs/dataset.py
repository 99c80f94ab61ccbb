"""A dataset by its place: a folder, the config of a run, or a run folder, and the reason for what it was taken for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densenet_suite.config.load import config_from_values, load_config
from densenet_suite.config.schema import Config
from densenet_suite.config.tasks import TASKS
from densenet_suite.detection import layout as boxes
from densenet_suite.division.split_files import SPLITS
from densenet_suite.errors import ConfigError, DataError, SuiteError
from densenet_suite.geo.geojson_rasters import GeoJsonFiles
from densenet_suite.registry import did_you_mean
from densenet_suite.segmentation import layout as masks
from densenet_suite.segmentation.pairing import PairedFiles

_CONFIG_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class OpenedDataset:
    """A dataset, before any of its annotations has been read.

    Attributes:
        config: of a run on it; where only a folder was given, everything but the data is the default.
        data: its data module.
        reason: why it was taken for boxes or for masks.
    """

    config: Config
    data: Any
    reason: str


def open_dataset(place: str | Path, overrides: Sequence[str] = (), *, task: str | None = None) -> OpenedDataset:
    """Open a dataset.

    Args:
        place: its folder, a config file, or a run folder.
        overrides: changes of the config, such as "data.size=512".
        task: detection or segmentation, where a folder holds both.

    Raises:
        ConfigError: the config is wrong, or there is no such task.
        DataError: the folder holds no dataset, or could be meant as either.
    """
    if task is not None and task not in TASKS:
        raise ConfigError(f"there is no task {task!r}", hint=did_you_mean(task, TASKS) or f"tasks: {', '.join(TASKS)}")
    path = Path(place)
    file = path / "config.yaml" if (path / "config.yaml").is_file() else path
    if file.suffix in _CONFIG_SUFFIXES:
        config, reason = load_config(file, overrides), f"config {file}"
        if task is not None and config.task != task:
            raise ConfigError(f"the config is one of {config.task}, not of {task}", where=str(file))
    else:
        task, reason = (task, "as told") if task is not None else recognise_task(path)
        config = config_from_values(_defaults(task, path), overrides, where=str(path))

    from densenet_suite.training.slices import SLICES

    return OpenedDataset(config, SLICES[config.task].data(config, None), reason)


def recognise_task(root: Path) -> tuple[str, str]:
    """Return what a folder is labelled for, detection or segmentation, and the reason.

    Raises:
        DataError: there is no such folder, nothing in it is known, or it holds boxes as well as masks.
    """
    if not root.is_dir():
        raise DataError("there is no such folder", where=str(root))
    with_boxes, fault = _first(boxes.find_split, root)
    with_masks, other_fault = _first(masks.find_split, root)
    paired = isinstance(with_masks, GeoJsonFiles) or (isinstance(with_masks, PairedFiles) and bool(with_masks.pairs))
    if with_boxes is not None and paired:
        raise DataError(
            f"the folder holds boxes ({with_boxes}) and masks ({getattr(with_masks, 'where', with_masks)})",
            where=str(root),
            hint="say which are meant: --task detection or --task segmentation",
        )
    if with_boxes is not None:
        return "detection", str(with_boxes)
    if fault is not None and not paired:
        raise fault
    if with_masks is not None:
        return "segmentation", f"masks, as there is {getattr(with_masks, 'where', root)}"
    raise other_fault or DataError(
        "nothing in the folder is known as a dataset",
        where=str(root),
        hint="boxes: annotations/instances_train.json (COCO), a data.yaml (YOLO), Annotations/*.xml (Pascal VOC), "
        "train.csv; masks: images/train and masks/train",
    )


def _first(find_split: Any, root: Path) -> tuple[Any, SuiteError | None]:
    """Return the first split that is found, or else the first fault."""
    fault = None
    for split in SPLITS:
        try:
            found = find_split(root, split)
        except SuiteError as error:
            fault = fault or error
            continue
        if found is not None:
            return found, None
    return None, fault


def _defaults(task: str, root: Path) -> dict[str, Any]:
    values: dict[str, Any] = {"task": task, "name": "data", "model": {}, "data": {"root": str(root.resolve())}}
    if task == "detection":
        values["model"]["architecture"] = "efficientdet_d0"
    return values
