"""Volumes by their path, and the scenes that a path means: pictures, slices of NIfTI files, slices of DICOM series.

Headers of volumes are kept for each process, so that a slice costs no search through a folder.

In the folders of nnU-Net (imagesTr, imagesTs, imagesVal) `case_0000.nii.gz`, `case_0001.nii.gz` and so on are the bands
of one volume, which has the path of the first.
"""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.images import find_images
from densenet_suite.installed import is_installed
from densenet_suite.volumes.cache import Stamp, stamp
from densenet_suite.volumes.voxels import (
    NIFTI_ENDINGS,
    VOLUME_ENDINGS,
    Volume,
    differences,
    ending_of,
    parse_slice,
    slice_path,
)

Array = np.ndarray[Any, Any]

_HEADERS = 256
_CHANNELS = ("imagesTr", "imagesTs", "imagesVal")
_CHANNEL = re.compile(r"(.+)_(\d{4})(\.nii|\.nii\.gz)")


class ChannelStack(Volume):
    """Volumes of one grid, each of whose bands is a band of this one."""

    def __init__(self, parts: list[Volume]):
        first = parts[0]
        for part in parts[1:]:
            different = differences(first.grid, part.grid, first.grid.plane)
            if different is not None or part.grid.turn("axial") != first.grid.turn("axial"):
                raise DataError(
                    f"{part.path.name} is no grid of the same voxels: {different or 'stored in another order'}",
                    where=str(first.path),
                    hint="the channels of a case are registered and resampled before they are trained on",
                )
        self.parts = parts
        self.path, self.grid, self.header = first.path, first.grid, first.header
        self.bands = sum(part.bands for part in parts)
        self.cached_bytes = sum(part.cached_bytes for part in parts)
        self.dtype = "uint8" if all(part.dtype == "uint8" for part in parts) else "float32"

    def read_plane(self, axis: int, index: int) -> tuple[Array, Array | None]:
        """See the base class."""
        return np.concatenate([part.read_plane(axis, index)[0] for part in self.parts], axis=-1), None


def channel_of(path: Path) -> int | None:
    """Return which band a file of nnU-Net's folders is; None for all other files."""
    found = _CHANNEL.fullmatch(path.name) if path.parent.name in _CHANNELS else None
    return None if found is None else int(found[2])


def without_channel(name: str) -> str:
    """Return the name of a case, of which `name`, without its ending, is a channel."""
    return re.sub(r"_\d{4}$", "", name)


def is_volume(path: Path) -> bool:
    """Say whether a path is that of a volume or of one of its slices: by its name, or because it is a folder."""
    return parse_slice(path) is not None or ending_of(path) in VOLUME_ENDINGS or os.path.isdir(path)


def open_volume(path: Path) -> Volume:
    """Return the volume of a NIfTI file, a DICOM file or a folder of one DICOM series; its voxels are not read yet.

    Raises:
        DataError: it is missing or damaged, or the folder holds no files of one series that fit together.
        MissingExtraError: it takes a package that is not installed.
    """
    try:
        when = stamp(path)
    except OSError:
        raise DataError("volume does not exist", where=str(path)) from None
    if channel_of(path) != 0:
        return _open(path, when)
    channels = [path]
    while (following := path.with_name(f"{_stem(path)}_{len(channels):04d}{ending_of(path)}")).is_file():
        channels.append(following)
    return (
        ChannelStack([_open(channel, stamp(channel)) for channel in channels])
        if len(channels) > 1
        else _open(path, when)
    )


def _stem(path: Path) -> str:
    return without_channel(path.name[: -len(ending_of(path))])


def slice_paths(path: Path) -> list[Path]:
    """Return the paths of a volume's slices, in their order; any other path, and that of a single slice, means itself.

    Raises:
        DataError: as `open_volume`.
        MissingExtraError: as `open_volume`.
    """
    if not is_volume(path) or parse_slice(path) is not None:
        return [path]
    grid = open_volume(path).grid
    return [slice_path(path, grid.plane, i) for i in range(grid.slices(grid.plane))]


def find_scenes(source: Path | str) -> list[Path]:
    """Return the pictures and volumes that a file, a folder (searched to its depths) or a shell pattern means, sorted.

    DICOM files that lie in a folder together and belong to one series are one volume, their folder; others are each one
    of their own.

    Raises:
        DataError: there are none.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        return find_images(source)
    folders = [path, *(each for each in path.rglob("*") if each.is_dir())]
    volumes = [found for folder in folders for found in _volumes_in(folder)]
    try:
        pictures = find_images(path)
    except DataError:
        if not volumes:
            raise
        pictures = []
    return sorted({*pictures, *volumes})


def _volumes_in(folder: Path) -> list[Path]:
    from densenet_suite.volumes.dicom import dicom_files, is_series

    files = dicom_files(folder)
    if files:
        require("pydicom", files[0])
    nifti = [p for p in folder.iterdir() if ending_of(p) in NIFTI_ENDINGS and p.is_file() and p.name[0] != "."]
    nifti = [path for path in nifti if not channel_of(path)]
    return [*nifti, *([folder] if is_series(files) else files)]


@lru_cache(_HEADERS)
def _open(path: Path, when: Stamp) -> Volume:
    if ending_of(path) in NIFTI_ENDINGS and not path.is_dir():
        require("nibabel", path)
        from densenet_suite.volumes.nifti import NiftiVolume

        return NiftiVolume(path)
    require("pydicom", path)
    from densenet_suite.volumes.dicom_series import DicomVolume

    return DicomVolume(path)


def require(package: str, path: Path) -> None:
    """Refuse a file whose reader is not installed.

    Raises:
        MissingExtraError: it is so.
    """
    if not is_installed(package):
        raise MissingExtraError(f"reading NIfTI and DICOM ({path})", "medical")
