"""`data split`: a dataset divided without leaks, by lists and annotation files that the readers of its format know."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from densenet_suite.division.grouping import duplicates, named_groups, patients, scenes
from densenet_suite.division.split_files import SPLITS
from densenet_suite.division.stratification import join, stratify
from densenet_suite.errors import ConfigError
from densenet_suite.geo.footprints import blocks, default_block, read_footprints, too_near
from densenet_suite.verbs.dataset import OpenedDataset, open_dataset
from densenet_suite.volumes.voxels import file_of

Array = np.ndarray[Any, Any]
By = Literal["image", "group", "patient", "scene", "block"]
_KEEPS_ITS_TILES = ("test", "val", "train")


@dataclass(frozen=True)
class SplitCounts:
    """What a split got: images (volumes count as one), groups, and the images that have each class."""

    images: int
    groups: int
    classes: dict[str, int]


@dataclass(frozen=True)
class DataSplit:
    """A division, as it was written.

    Attributes:
        by: what was kept together.
        splits: what each got.
        duplicates: images that are the same, to the last byte, as another; they lie in the split of the other.
        set_aside: images in no split, as they are too near to one of another split.
        files: written.
        reason: why the folder was taken for boxes or masks.
    """

    by: str
    splits: dict[str, SplitCounts]
    duplicates: int
    set_aside: list[str]
    files: list[str]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Images:
    """The images of a dataset: paths, and which of its classes each has (bool [n k])."""

    paths: list[Path]
    names: tuple[str, ...]
    classes: Array


def split_data(
    place: str | Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    by: By = "image",
    group: str | None = None,
    block: float | None = None,
    buffer: float = 0.0,
    seed: int = 0,
    task: str | None = None,
    overwrite: bool = False,
) -> DataSplit:
    r"""Divide a dataset into train, val and, if it is asked for, test, and write the files that say so into its folder.

    Images that are the same to the last byte always stay together, and so do the slices of a volume. Classes are shared
    out as evenly as whole groups allow; the same seed gives the same division. A test split that is there stays as it
    is, unless a new one is asked for; what the others share with it is not looked at then.

    Args:
        place: folder of the dataset, or a config whose `data` says how it is read.
        val: share of the images to validate on.
        test: share of the images to test on.
        by: what stays together: "image" each its own; "group" what `group` says; "patient" the patient that DICOM
            files name (never shown), `sub-...` of BIDS, or else the file; "scene" the folder that an image lies in;
            "block" tiles of GeoTIFFs by squares on the ground.
        group: a regular expression with one group, searched in the file name, such as "(case\d+)_"; or a file: CSV
            with the columns image and group, or JSON {image: group}; images by file name, or by path below the folder.
        block: side of a block in metres; four times that of the largest tile if None.
        buffer: metres between tiles of different splits; what is nearer is put aside. At 0 it is what overlaps.
        seed: of what decides between equals.
        task: detection or segmentation, where the folder holds both.
        overwrite: divide anew what is divided; the old files are kept with .old behind their names.

    Raises:
        ConfigError: shares or arguments make no sense, or there are splits already.
        DataError: the dataset is faulty, images have no group, or there are too few groups.
        MissingExtraError: blocks need rasterio, patients of DICOM files pydicom.
    """
    _check_arguments(val, test, by, group, block, buffer)
    opened = open_dataset(place, task=task)
    opened.data.holdout = 0.0  # the files of a split are what is divided
    root = Path(opened.data.root)
    if any(getattr(opened.config.data, name) is not None for name in SPLITS):
        raise ConfigError(
            "the config names its splits, and would not see new ones",
            where=str(place),
            hint=f"divide the folder {root}",
        )
    asked = [name for name in SPLITS if name != "test" or test > 0]
    there = [name for name in SPLITS if opened.data.has_files(name)]
    if not overwrite and (divided := [name for name in there if name in asked and name != "train"]):
        raise ConfigError(
            f"there is a {' and a '.join(divided)} split already", where=str(root), hint="--overwrite divides anew"
        )
    images = _read_images(opened, [name for name in there if name in asked] or ["train"])
    tiles = read_footprints(images.paths) if by == "block" else None
    if tiles is not None:
        groups: Sequence[Any] = blocks(tiles, block or default_block(tiles))
    else:
        groups = _groups(images.paths, root, by, group)
    same = duplicates(images.paths)
    numbers = join(groups, same)
    shares = {name: {"val": val, "test": test}.get(name, 1 - val - test) for name in asked}
    splits = stratify(numbers, images.classes, shares, seed)
    order = [name for name in _KEEPS_ITS_TILES if name in asked]
    aside = too_near(tiles, splits, order, buffer) if tiles is not None else []
    split_of: dict[Path, str | None] = dict(zip(images.paths, splits, strict=True))
    split_of.update({images.paths[i]: None for i in aside})

    from densenet_suite.verbs.split_layouts import new_files

    files = new_files(opened, asked, split_of).write(overwrite)
    return DataSplit(
        by=by,
        splits={name: _counts(name, images, numbers, split_of) for name in asked},
        duplicates=sum(len(each) - 1 for each in same),
        set_aside=[str(images.paths[i]) for i in aside],
        files=[str(path) for path in files],
        reason=opened.reason,
    )


def _check_arguments(val: float, test: float, by: str, group: str | None, block: float | None, buffer: float) -> None:
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise ConfigError(f"val {val} and test {test} leave nothing to train on, or are no shares", hint="0.2 and 0.1")
    if by not in get_args(By):
        raise ConfigError(f"there is no division by {by!r}", hint=f"by {', '.join(get_args(By))}")
    if (by == "group") != (group is not None):
        raise ConfigError(
            "by group and what the groups are go together",
            hint="--by group --group '(case\\d+)_', or --group groups.csv",
        )
    if (block is not None or buffer) and by != "block":
        raise ConfigError("block and buffer are of a division by block", hint="--by block")
    if (block is not None and not block > 0) or not buffer >= 0:
        raise ConfigError(f"block {block} and buffer {buffer} are metres: more than 0, and at least 0")


def _read_images(opened: OpenedDataset, splits: Sequence[str]) -> _Images:
    """Return the images of splits, each file once."""
    paths: list[Path] = []
    rows: list[Array] = []
    names: tuple[str, ...] = ()
    for split in splits:
        dataset = opened.data.split(split)
        names = tuple(dataset.classes.names)
        of_file: dict[Path, Array] = {}
        for path, present in zip(dataset.paths, _present(dataset), strict=True):
            file = file_of(path)
            of_file[file] = of_file.get(file, np.zeros(len(names), bool)) | present
        for path in of_file.keys() - set(paths):
            paths.append(path)
            rows.append(of_file[path])
    order = sorted(range(len(paths)), key=paths.__getitem__)
    return _Images([paths[i] for i in order], names, np.array([rows[i] for i in order]).reshape(-1, len(names)))


def _present(dataset: Any) -> Array:
    """Return which classes are in each image [n k], of boxes or of masks."""
    if hasattr(dataset, "pixel_counts"):
        return np.asarray(dataset.pixel_counts > 0)
    present = np.zeros((len(dataset), len(dataset.classes)), bool)
    for i, image in enumerate(dataset.images):
        present[i, image.objects.labels] = True
    return present


def _groups(paths: Sequence[Path], root: Path, by: str, group: str | None) -> Sequence[Any]:
    if group is not None:
        return named_groups(paths, root, group)
    if by == "patient":
        return patients(paths, root)
    return scenes(paths, root) if by == "scene" else paths


def _counts(name: str, images: _Images, groups: Sequence[int], split_of: Mapping[Path, str | None]) -> SplitCounts:
    mine = [i for i, path in enumerate(images.paths) if split_of[path] == name]
    present = images.classes[mine].sum(0).tolist()
    return SplitCounts(len(mine), len({groups[i] for i in mine}), dict(zip(images.names, present, strict=True)))
