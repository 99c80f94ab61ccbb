"""`data show`: contact sheets of a dataset, as its files are labelled and as the network sees them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densenet_suite.division.split_files import SPLITS
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.verbs.dataset import open_dataset

_PANELS = 16  # to a sheet
_COLUMNS = 4


def show_data(
    place: str | Path,
    overrides: Sequence[str] = (),
    *,
    out: str | Path,
    task: str | None = None,
    split: str = "train",
    count: int = 16,
    augmented: bool = False,
    seed: int = 0,
) -> list[Path]:
    """Draw images with their labels into contact sheets, PNG files.

    Args:
        place: folder of a dataset, config file, or run folder.
        overrides: changes of the config, such as "data.size=512".
        out: folder of the sheets.
        task: detection or segmentation, where a folder holds both.
        split: train, val or test.
        count: how many images, spread over the split.
        augmented: beside each training image, show what the network gets to see of it.
        seed: of the choice of images, and of their random changes.

    Returns:
        the sheets.

    Raises:
        ConfigError: the config or an argument is wrong.
        DataError: the dataset is faulty, or there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}", hint=f"splits are {', '.join(SPLITS)}")
    if count < 1:
        raise ConfigError(f"count is {count}, and at least one image is shown")
    if augmented and split != "train":
        raise ConfigError(f"the {split} split is not augmented", hint="leave out --augmented, or --split")

    from PIL import Image

    from densenet_suite.detection.data import DetectionData
    from densenet_suite.drawing import contact_sheet
    from densenet_suite.report.sample_sheets import detection_pairs, segmentation_pairs

    data = open_dataset(place, overrides, task=task).data
    data.seed, data.batch = seed, 1  # a set smaller than a batch can be shown too
    source = data.split(split)
    if not len(source):
        raise DataError(f"the {split} split has no images", where=str(data.root))
    chosen = sorted({(i * len(source) // count + seed) % len(source) for i in range(count)})
    draw = detection_pairs if isinstance(data, DetectionData) else segmentation_pairs
    pictures = draw(data, source, chosen, augmented=augmented)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{split}-augmented" if augmented else split
    sheets = []
    for number, start in enumerate(range(0, len(pictures), _PANELS), 1):
        part = pictures[start : start + _PANELS]
        sheet: np.ndarray = contact_sheet(part, min(_COLUMNS, len(part)), gap=12)
        sheets.append(folder / f"{name}-{number}.png")
        Image.fromarray(sheet).save(sheets[-1])
    return sheets
