"""The slices of a volume, once they are segmented, put together as one NIfTI file for each kind of output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.rasters import VolumeSlice
from densenet_suite.segmentation.structures import IGNORE
from densenet_suite.volumes.nifti import write_nifti

Array = np.ndarray[Any, Any]


class VolumeFiles:
    """Collects planes of numbers by output, and writes each output to `<folder>/<output>/<name>.nii.gz`.

    Slices that never come are 255 in a file of whole numbers and NaN in one of fractions. One label of a voxel takes a
    byte of memory, one probability four.
    """

    def __init__(self, first: VolumeSlice, folder: Path, name: str):
        self.volume, self.plane = first.volume, first.plane
        self.folder, self.name = folder, name
        self._arrays: dict[str, Array] = {}
        self._seen: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether all slices have come."""
        return len(self._seen) == self.volume.grid.slices(self.plane)

    def append(self, output: str, index: int, top: int, rows: Array) -> None:
        """Take rows [bands h w] of a slice, from the row `top` on."""
        if output not in self._arrays:
            shape = (self.volume.grid.slices(self.plane), *self.volume.grid.size(self.plane), len(rows))
            fill = IGNORE if rows.dtype == np.uint8 else np.nan
            self._arrays[output] = np.full(shape, fill, rows.dtype)
        self._arrays[output][index, top : top + rows.shape[1]] = rows.transpose(1, 2, 0)
        self._seen.add(index)

    def write(self) -> Sequence[Path]:
        """Write the files, and return their paths."""
        volume = self.volume
        paths = []
        for output, slices in self._arrays.items():
            paths.append(self.folder / output / f"{self.name}.nii.gz")
            paths[-1].parent.mkdir(exist_ok=True)
            voxels = volume.grid.to_voxels(slices, self.plane)
            write_nifti(paths[-1], voxels[..., 0] if voxels.shape[3] == 1 else voxels, volume.grid, volume.header)
        return paths
