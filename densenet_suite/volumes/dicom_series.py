"""DICOM series and files of many frames as volumes: slices in the order in which they lie in the patient.

Values are stored values times rescale slope plus intercept; where low ones mean white (MONOCHROME1) they are mirrored
within what the stored bits can hold, and so is the window. Pixel padding holds nothing. The window is not applied.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.volumes.cache import VOLUMES
from densenet_suite.volumes.dicom import Frame, decode, dicom_files, read_frames
from densenet_suite.volumes.voxels import Volume, VoxelGrid, check_grid

Array = np.ndarray[Any, Any]

_UNEVEN = 0.05  # of a step between slices
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class DicomVolume(Volume):
    """A DICOM file, or a folder that holds the files of one series.

    Voxels are (column, row, slice); slices are in the order of their positions along the normal of the picture.
    """

    def __init__(self, path: Path):
        files = dicom_files(path) if path.is_dir() else [path]
        if not files:
            raise DataError("folder holds no DICOM files", where=str(path))
        frames = [frame for file in files for frame in read_frames(file)]
        self.path = path
        _check_alike(path, files, frames)
        frames, placed = _in_order(path, frames)
        first = frames[0]
        self._frames_in_order = frames
        affine = _affine(frames) if placed else _unplaced(first)
        grid = check_grid((first.size[1], first.size[0], len(frames)), affine, path)
        self.grid = VoxelGrid(grid.shape, grid.affine, placed)
        self.bands = first.samples
        changed = any(frame.rescaled for frame in frames)
        self.dtype = "float32" if changed else first.dtype
        self.window = first.window
        if first.window and first.mirrored:
            self.window = (sum(first.ends) - first.window[0], first.window[1])

    def read_plane(self, axis: int, index: int) -> tuple[Array, Array | None]:
        """See the base class."""
        if axis == 2:
            values, hidden = self._read(self._frames_in_order[index])
            return values.swapaxes(0, 1), None if hidden is None else hidden.swapaxes(0, 1)
        at: list[Any] = [slice(None)] * 3
        at[axis] = index
        values = VOLUMES.get(self.path, self._stack)[tuple(at)]
        hidden = np.isnan(values).any(-1) if values.dtype.kind == "f" else None
        return values, hidden

    def _stack(self) -> Array:
        """Return all voxels; NaN where there is nothing."""
        planes = []
        for frame in self._frames_in_order:
            values, hidden = self._read(frame)
            if self.dtype != "uint8":
                values = values.astype(np.float32)
                values[np.zeros(frame.size, bool) if hidden is None else hidden] = np.nan
            planes.append(values)
        return np.stack(planes).swapaxes(0, 2)

    def _read(self, frame: Frame) -> tuple[Array, Array | None]:
        """Return a picture [h w bands], and where it holds nothing."""
        stored = decode(frame)
        hidden = None
        if frame.padding is not None and frame.samples == 1:
            low, high = frame.padding
            hidden = ((stored >= low) & (stored <= high))[:, :, 0]
        if self.dtype == "uint8":
            return np.uint8(sum(frame.ends)) - stored if frame.mirrored else stored, hidden
        values = stored.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
        return np.float32(sum(frame.ends)) - values if frame.mirrored else values, hidden


def _check_alike(path: Path, files: Sequence[Path], frames: Sequence[Frame]) -> None:
    """Refuse files that are not slices of one volume."""
    series = Counter(frame.series for frame in frames)
    if len(series) > 1:
        raise DataError(
            f"folder holds {len(files)} DICOM files of {len(series)} series",
            where=str(path),
            hint="a folder for each series; pictures of their own lie directly in the folder of images",
        )
    first = frames[0]
    for frame in frames:
        for name in ("size", "samples", "dtype", "spacing"):
            one, other = getattr(first, name), getattr(frame, name)
            same = np.allclose(one, other, rtol=1e-3) if name == "spacing" else one == other
            if not same:
                raise DataError(
                    f"slices differ in {name}: {first.path.name} has {one}, {frame.path.name} has {other}",
                    where=str(path),
                )


def _in_order(path: Path, frames: list[Frame]) -> tuple[list[Frame], bool]:
    """Return the slices sorted along their normal, and whether their place in space is known.

    Raises:
        DataError: slices are missing, there twice, or turned differently.
    """
    placed = [frame for frame in frames if frame.position is not None and frame.orientation is not None]
    if len(placed) < len(frames):
        if placed or len({frame.path for frame in frames}) > 1:
            raise DataError(
                f"{len(frames) - len(placed)} of {len(frames)} slices do not say where they lie", where=str(path)
            )
        return frames, False
    orientation = np.array([frame.orientation for frame in placed])
    turned = int(np.abs(orientation - orientation[0]).max(1).argmax())
    if np.abs(orientation[turned] - orientation[0]).max() > 1e-3:
        raise DataError(
            f"slices are turned differently: {placed[0].path.name} and {placed[turned].path.name}",
            where=str(path),
            hint="take overview pictures (localizers) out of the folder",
        )
    normal = np.cross(orientation[0, :3], orientation[0, 3:])
    along = np.array([frame.position for frame in placed]) @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    if len(steps):
        _check_steps(path, [placed[i] for i in order], steps)
    return [placed[i] for i in order], True


def _check_steps(path: Path, frames: Sequence[Frame], steps: Array) -> None:
    usual = float(np.median(steps))
    thin = int(steps.argmin())
    if steps[thin] <= 1e-3:
        raise DataError(
            f"two slices lie at the same place: {_named(frames[thin])} and {_named(frames[thin + 1])}",
            where=str(path),
            hint="a folder for each phase, echo or copy of the series",
        )
    odd = int(np.abs(steps - usual).argmax())
    if abs(steps[odd] - usual) > _UNEVEN * usual:
        what = "slices are missing" if steps[odd] > usual else "slices are unevenly spaced"
        raise DataError(
            f"{what}: {_named(frames[odd])} and {_named(frames[odd + 1])} lie {steps[odd]:.4g} mm apart, "
            f"others {usual:.4g}",
            where=str(path),
        )


def _named(frame: Frame) -> str:
    return f"{frame.path.name} (frame {frame.number + 1})" if frame.number else frame.path.name


def _affine(frames: Sequence[Frame]) -> Array:
    """Return the affine from (column, row, slice) to right, front, head; DICOM PS3.3 C.7.6.2.1.1 has left and back."""
    first, last = frames[0], frames[-1]
    rows, columns = first.spacing[:2]
    affine = np.eye(4)
    along, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])  # type: ignore[index]
    affine[:3, 0], affine[:3, 1] = along * columns, down * rows
    if len(frames) > 1:
        affine[:3, 2] = (np.array(last.position) - np.array(first.position)) / (len(frames) - 1)
    else:
        affine[:3, 2] = np.cross(along, down) * first.thickness
    affine[:3, 3] = first.position
    return _LPS_TO_RAS @ affine


def _unplaced(frame: Frame) -> Array:
    return _LPS_TO_RAS @ np.diag([frame.spacing[1], frame.spacing[0], frame.thickness, 1.0])
