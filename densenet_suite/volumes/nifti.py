"""NIfTI volumes, read and written: the only module that knows nibabel (the extra `medical`).

A fourth axis is bands, such as the kinds of MR. Values are those of the header's slope and intercept. A file without
compression is read slice by slice; a .nii.gz is unpacked whole, and kept in the cache of volumes.
"""

import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.files import atomic_write
from densenet_suite.volumes.cache import VOLUMES
from densenet_suite.volumes.voxels import Volume, VoxelGrid, check_grid

Array = np.ndarray[Any, Any]

# what nibabel mends in a header goes without saying
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)

_MAX_BYTES = 8 * 2**30  # of one unpacked volume
_DEFLATE = 1100  # no file is packed tighter than to a share of this
_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


class NiftiVolume(Volume):
    """A NIfTI-1 or NIfTI-2 file, of which the header has been read.

    Its texts, in which there may be names of patients, are not kept.
    """

    def __init__(self, path: Path):
        import nibabel

        with _reading(path):
            image: Any = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise DataError("file is no NIfTI image", where=str(path))
        stored = image.dataobj.dtype
        if stored.fields is not None or stored.kind not in "iuf":
            raise DataError(
                f"voxels are {'colours' if stored.fields else stored}, not numbers",
                where=str(path),
                hint="write each channel to a volume of its own, or to a fourth axis",
            )
        shape = image.shape + (1,) * (4 - len(image.shape))
        if any(side != 1 for side in shape[4:]):
            raise DataError(f"volume has {len(image.shape)} axes, {image.shape}; four are read", where=str(path))
        self.path = path
        self.grid = check_grid(shape[:3], np.asarray(image.affine, np.float64), path)
        self.bands = shape[3]
        self._scaled = bool(image.dataobj.slope != 1 or image.dataobj.inter != 0)
        self.dtype = "float32" if self._scaled else stored.name
        self.header = _geometry(image.header)
        wanted = stored.itemsize * math.prod(shape)
        self._check_size(wanted, int(image.dataobj.offset))
        self.cached_bytes = wanted if self._packed else 0
        self._proxy = image.dataobj

    def read_plane(self, axis: int, index: int) -> tuple[Array, Array | None]:
        """See the base class."""
        at: list[Any] = [slice(None)] * 3
        at[axis] = index
        if self._packed:
            values = VOLUMES.get(self.path, self._unpack)[tuple(at)]
            values = values * self._proxy.slope + self._proxy.inter if self._scaled else values
        else:
            bands = [slice(None), *(0 for _ in self._proxy.shape[4:])] if len(self._proxy.shape) > 3 else []
            with _reading(self.path):
                values = np.asarray(self._proxy[(*at, *bands)[: len(self._proxy.shape)]])
        return values.reshape(*values.shape[:2], self.bands), None

    def _unpack(self) -> Array:
        with _reading(self.path):
            raw = np.asarray(self._proxy.get_unscaled())
        return raw.reshape(*self.grid.shape, self.bands, order="F")

    @property
    def _packed(self) -> bool:
        return self.path.suffix.lower() == ".gz"

    def _check_size(self, wanted: int, offset: int) -> None:
        packed = self._packed
        there = self.path.stat().st_size * (_DEFLATE if packed else 1)
        if there < wanted + (0 if packed else offset):
            raise DataError(
                f"the header speaks of {wanted:,} bytes of voxels, and the file has not so many", where=str(self.path)
            )
        if packed and wanted > _MAX_BYTES:
            raise DataError(
                f"volume has {wanted:,} bytes, the limit for a packed one is {_MAX_BYTES:,}",
                where=str(self.path),
                hint="unpack it with gunzip: a .nii is read slice by slice",
            )


def write_nifti(path: Path, voxels: Array, grid: VoxelGrid, header: Any = None) -> None:
    """Write voxels [i j k] or [i j k bands] as .nii.gz, whole or not at all.

    Args:
        path: of the file.
        voxels: of any type of numbers that NIfTI has.
        grid: where they lie.
        header: of the `NiftiVolume` that they belong to, whose codes and units are kept; without one the place is that
            of a scanner, in millimetres.
    """
    import nibabel

    double = isinstance(header, nibabel.Nifti2Header)
    image = (nibabel.Nifti2Image if double else nibabel.Nifti1Image)(voxels, None, header)
    image.header.set_data_dtype(voxels.dtype)
    if header is None:
        image.header.set_xyzt_units("mm")
        code = 1 if grid.placed else 0
        image.set_sform(grid.affine, code)
        image.set_qform(grid.affine, code)
    with atomic_write(path) as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        image.to_stream(packed)


def _geometry(header: Any) -> Any:
    kept = type(header)()
    kept.set_data_shape(header.get_data_shape()[:3])
    for name in _GEOMETRY:
        kept[name] = header[name]
    return kept


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell what nibabel raises as what is wrong with the file."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        if not path.is_file():
            raise DataError("volume does not exist", where=str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that are none, which are refused or missing
            yield
    except DataError:
        raise
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"volume is damaged: {type(error).__name__}", where=str(path)) from None
