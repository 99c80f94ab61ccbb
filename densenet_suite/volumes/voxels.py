"""Voxels in space: the grid of a volume, and the pictures that it is cut into.

A volume is cut across the axis that it was taken along: the one whose voxels are more than half as long again as those
of both others, such as the thick slices of a knee; where there is none, across the axis from feet to head (axial).

A slice is turned as a viewer of radiology shows it, whatever the order of voxels in the file: axial and coronal slices
have the patient's right on the left, sagittal ones the front on the left; axial ones have the front at the top, the
others the head. Slices are numbered from 0 towards the patient's left (sagittal), back (coronal) or head (axial).
An oblique grid is not resampled: its axes count as those that they are nearest to.

`case01.nii.gz#axial-17`, a path with the plane and the number of a slice behind it, is the path of this slice.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densenet_suite.errors import DataError

Array = np.ndarray[Any, Any]

NIFTI_ENDINGS = (".nii", ".nii.gz")
VOLUME_ENDINGS = (*NIFTI_ENDINGS, ".dcm")
_THICK = 1.5
_SLICE = re.compile(r"(?P<file>.+)#(?P<plane>axial|coronal|sagittal|frame)-(?P<index>\d+)")

# directions of slices, rows and columns: the axis of space, and its sign where right, front and head are positive
_LEFT, _BACK, _UP, _DOWN = (0, -1), (1, -1), (2, 1), (2, -1)
_PLANES = {"axial": (_UP, _BACK, _LEFT), "coronal": (_BACK, _DOWN, _LEFT), "sagittal": (_LEFT, _DOWN, _BACK)}


class Turn(NamedTuple):
    """How voxels [i j k] become slices [n h w]: the axis that each is along, and whether against its order."""

    axes: tuple[int, int, int]
    backwards: tuple[bool, bool, bool]


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """Where voxels lie.

    Attributes:
        shape: voxels along (i, j, k).
        affine: float64 [4 4], from voxel (i, j, k, 1) to millimetres (x, y, z, 1) to the right, the front and the head.
        placed: whether that is known; frames of a film, for example, only have an order.
    """

    shape: tuple[int, int, int]
    affine: Array
    placed: bool = True

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between neighbours along (i, j, k)."""
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(0)).tolist()
        return lengths[0], lengths[1], lengths[2]

    @property
    def plane(self) -> str:
        """The plane that the volume is cut in; see the module."""
        if not self.placed:
            return "frame"
        spacing = np.round(self.spacing, 3)
        thick = int(spacing.argmax())
        if spacing[thick] <= _THICK * np.delete(spacing, thick).max():
            return "axial"
        return ("sagittal", "coronal", "axial")[self._nearest().index(thick)]

    def turn(self, plane: str) -> Turn:
        """Return how voxels become the slices of a plane."""
        if plane == "frame":
            return Turn((2, 1, 0), (False, False, False))
        nearest = self._nearest()
        axes, backwards = [], []
        for towards, sign in _PLANES[plane]:
            axes.append(nearest[towards])
            backwards.append(bool(self.affine[towards, nearest[towards]] * sign < 0))
        return Turn((axes[0], axes[1], axes[2]), (backwards[0], backwards[1], backwards[2]))

    def slices(self, plane: str) -> int:
        """Return how many there are."""
        return self.shape[self.turn(plane).axes[0]]

    def size(self, plane: str) -> tuple[int, int]:
        """Return (height, width) of a slice."""
        _, rows, columns = self.turn(plane).axes
        return self.shape[rows], self.shape[columns]

    def to_voxels(self, slices: Array, plane: str) -> Array:
        """Return slices [n h w ...] in the order of voxels [i j k ...], without a copy."""
        turn = self.turn(plane)
        turned = slices[tuple(slice(None, None, -1 if back else 1) for back in turn.backwards)]
        return np.moveaxis(turned, (0, 1, 2), turn.axes)

    def turned(self, plane: str) -> "VoxelGrid":
        """Return the grid of the slices: shape (n, h, w), and the affine from (slice, row, column, 1)."""
        turn = self.turn(plane)
        order = np.zeros((4, 4))
        order[3, 3] = 1
        for new, (old, back) in enumerate(zip(turn.axes, turn.backwards, strict=True)):
            order[old, new] = -1 if back else 1
            order[old, 3] = self.shape[old] - 1 if back else 0
        first, second, third = (self.shape[axis] for axis in turn.axes)
        return VoxelGrid((first, second, third), self.affine @ order, self.placed)

    def _nearest(self) -> tuple[int, int, int]:
        """Return the voxel axes that are nearest to left-right, back-front and feet-head."""
        cosines = np.abs(self.affine[:3, :3]) / np.array(self.spacing)
        first, second, third = max(permutations(range(3)), key=lambda axes: sum(cosines[range(3), axes]))
        return first, second, third


class Volume(ABC):
    """A file, or a folder of files, of voxels.

    Attributes:
        path: of the file or folder.
        grid: where the voxels lie.
        bands: numbers of each voxel.
        dtype: of the numbers; uint8 ones are read as they are, all others as float32.
        window: (centre, width) of the values that a viewer would show, where the file says so.
        header: what a NIfTI file says of the place of its voxels, in nibabel's terms; None for others.
        cached_bytes: what its voxels take in the cache of volumes; 0 where a slice is read without the others.
    """

    path: Path
    grid: VoxelGrid
    bands: int
    dtype: str
    window: tuple[float, float] | None = None
    header: Any = None
    cached_bytes: int = 0

    @abstractmethod
    def read_plane(self, axis: int, index: int) -> tuple[Array, Array | None]:
        """Return the voxels at one place of an axis: [a b bands] along the two others, and which of them hold nothing.

        Raises:
            DataError: the file is damaged there.
        """

    def read_slice(self, plane: str, index: int) -> tuple[Array, Array | None]:
        """Return a slice [h w bands] as it is looked at, and where it holds nothing [h w], or None.

        Raises:
            DataError: the file is damaged there.
        """
        turn = self.grid.turn(plane)
        axis, back = turn.axes[0], turn.backwards
        values, hidden = self.read_plane(axis, self.grid.shape[axis] - 1 - index if back[0] else index)

        def turned(array: Array) -> Array:
            array = array.swapaxes(0, 1) if turn.axes[1] > turn.axes[2] else array
            return array[:: -1 if back[1] else 1, :: -1 if back[2] else 1]

        return turned(values), None if hidden is None else turned(hidden)


def ending_of(path: Path) -> str:
    """Return the ending of a file's name, in small letters; .nii.gz is one."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def slice_path(path: Path, plane: str, index: int) -> Path:
    """Return the path of a slice."""
    return path.with_name(f"{path.name}#{plane}-{index}")


def parse_slice(path: Path) -> tuple[Path, str, int] | None:
    """Return file, plane and number of a slice's path; None for any other path."""
    found = _SLICE.fullmatch(path.name)
    return None if found is None else (path.with_name(found["file"]), found["plane"], int(found["index"]))


def file_of(path: Path) -> Path:
    """Return the file or folder that a path means: that of a slice is its volume's."""
    found = parse_slice(path)
    return path if found is None else found[0]


def check_grid(shape: tuple[int, int, int], affine: Array, where: Path) -> VoxelGrid:
    """Return the grid that a header describes.

    Raises:
        DataError: it has no voxel, or does not say where they lie.
    """
    if min(shape) < 1:
        raise DataError(f"volume has the shape {shape}: there is no voxel", where=str(where))
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(
            "the volume's affine is not one: it holds no finite numbers, or makes all voxels one plane",
            where=str(where),
            hint="a program for such files, such as ITK-SNAP or 3D Slicer, can write a new header",
        )
    return VoxelGrid(shape, affine)


def differences(one: VoxelGrid, other: VoxelGrid, plane: str) -> str | None:
    """Say how two grids differ once both are turned alike, or return None: half a tenth of a voxel is no difference."""
    if "frame" in (plane, other.plane):
        shapes = [grid.shape for grid in (one, other)]
        return None if shapes[0] == shapes[1] else f"{_times(shapes[0])} and {_times(shapes[1])} voxels"
    a, b = one.turned(plane), other.turned(plane)
    if a.shape != b.shape:
        return f"{_times(a.shape)} and {_times(b.shape)} voxels (slices x rows x columns, {plane})"
    corners = np.array([[i, j, k, 1] for i in (0, a.shape[0]) for j in (0, a.shape[1]) for k in (0, a.shape[2])])
    apart = np.abs(corners @ (a.affine - b.affine).T)[:, :3].max()
    if apart <= 0.05 * min(a.spacing):
        return None
    return f"their corners lie up to {apart:.3g} mm apart: affines {_shown(one.affine)} and {_shown(other.affine)}"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _shown(affine: Array) -> str:
    return str([[round(float(cell), 3) for cell in row] for row in affine[:3]])
