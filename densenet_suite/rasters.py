"""Images and rasters of any depth, number of bands and size: pictures whole, GeoTIFFs by windows, volumes by slices.

Pixels of 8 bits stay uint8, all others become float32 with the values of the file. A pixel without data is marked:
- every band holds the nodata value, where that is one that pixels may reach (unsigned whole numbers);
- any band holds it, where it is a mere sign (signed and floating point numbers), or NaN or infinity;
- the file's own mask or alpha band says so, or the padding value of a DICOM file.

rasterio reads what Pillow cannot, or not whole: georeferenced TIFFs, and those with more bands, deeper colours or
signed numbers. What both can read, Pillow reads, so that an installed extra changes no pixel.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from densenet_suite.archives.members import open_binary
from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.geo.geotiff import Georeference, describe_geotiff, open_geotiff, reading
from densenet_suite.image_opening import MAX_PIXELS, PILLOW_ERRORS, ImageRecord, read_header
from densenet_suite.images import read_deep_png, read_image
from densenet_suite.installed import is_installed
from densenet_suite.reader_warnings import without_reader_warnings
from densenet_suite.tiles import Window
from densenet_suite.volumes.scenes import is_volume, open_volume
from densenet_suite.volumes.voxels import Volume, parse_slice, slice_path

Array = np.ndarray[Any, Any]

_TIFFS = (".tif", ".tiff")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
_STRIP = 64  # rows
_USUAL_BANDS = 4
_GEO_TAGS = (33550, 33922, 34264, 34735, 42113)  # scale, tie points, transformation, keys, GDAL's nodata


class Pixels(NamedTuple):
    """A part of a raster: values [h w c], uint8 or float32, and where there are none [h w] (None: nowhere).

    Values at missing pixels are zero.
    """

    values: Array
    missing: Array | None


class VolumeSlice(NamedTuple):
    """Which slice of which volume a raster is; see `voxels`."""

    volume: Volume
    plane: str
    number: int


class Raster(ABC):
    """A file of pixels that is read by windows, inside a `with` block; it may be entered again.

    Attributes:
        record: size, bands (without alpha) and depth of the file.
        georeference: None for pictures.
        slice: of a volume; None for all others.
    """

    record: ImageRecord
    georeference: Georeference | None = None
    slice: VolumeSlice | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def read(self, window: Window) -> Pixels:
        """Read a window that lies inside the raster.

        Raises:
            DataError: the file is damaged there.
        """


def is_raster(path: Path) -> bool:
    """Say whether a file may be more than the reader of pictures sees, by its name: TIFFs, volumes and their slices."""
    return path.suffix.lower() in _TIFFS or is_volume(path)


def open_raster(path: Path | str) -> Raster:
    """Return the raster of a file or slice: a picture is decoded at once, of any other file only the header is read.

    Raises:
        DataError: the file is missing, damaged, no image, has several pages or complex numbers, or is a picture that
            `images.read_image` refuses; or it is a volume, and not one of its slices.
        MissingExtraError: it takes rasterio, nibabel or pydicom, which is not installed.
    """
    path = Path(path)
    if is_volume(path):
        return _Slice(path)
    if not _needs_rasterio(path):
        return _Picture(path)
    if not is_installed("rasterio"):
        raise MissingExtraError(f"reading a GeoTIFF, or a TIFF of many bands or deep colours ({path})", "geo")
    return _GeoRaster(path)


def read_raster(path: Path | str, bands: int | None = None) -> tuple[Array, Array | None, ImageRecord]:
    """Read a whole file: pixels [h w c] (uint8 or float32), where there are none [h w] or None, and the header.

    Args:
        path: of a picture or raster.
        bands: how many are wanted, as in `with_bands`; None takes what there are.

    Raises:
        DataError: as `open_raster` and `with_bands`, and for more than 100 million pixels, or fewer where there are
            many bands.
        MissingExtraError: the file takes rasterio, which is not installed.
    """
    with open_raster(path) as raster:
        record = raster.record
        limit = MAX_PIXELS * _USUAL_BANDS // max(_USUAL_BANDS, record.bands)
        if record.height * record.width > limit:
            bands_said = f" of {record.bands} bands" if limit < MAX_PIXELS else ""
            raise DataError(
                f"raster has {record.width}x{record.height} pixels, the limit for whole ones{bands_said} is {limit:,}",
                where=str(path),
                hint="cut it into tiles",
            )
        values, missing = raster.read(Window(0, 0, record.height, record.width))
    return values if bands is None else with_bands(values, bands, record), missing, record


def check_bands(record: ImageRecord, bands: int) -> None:
    """Refuse a file that does not have the wanted bands, nor what makes them: one for three, 8-bit colour for one.

    Raises:
        DataError: it is so.
    """
    same, grey = record.bands == bands, record.bands == 1 and bands == 3
    if not (same or grey or (record.bands == 3 and bands == 1 and record.dtype == "uint8")):
        raise DataError(
            f"image has {record.bands} bands of {record.dtype} where {bands} are expected",
            where=str(record.path),
            hint="all images of a model have the same bands; gdal_translate -b chooses some",
        )


def with_bands(values: Array, bands: int, record: ImageRecord) -> Array:
    """Return pixels [h w c] with the wanted bands: one is repeated for three, 8-bit colour becomes luma for one.

    Raises:
        DataError: as `check_bands`.
    """
    check_bands(record, bands)
    if record.bands == bands:
        return values
    if bands == 3:
        return np.repeat(values, 3, axis=2)
    return np.array(Image.fromarray(values).convert("L"))[:, :, None]


def read_thumbnail(raster: Raster, step: int) -> Array:
    """Read every `step`-th pixel of every `step`-th row [h w c], within the `with` block of the raster."""
    height, width = raster.record.height, raster.record.width
    strip = -(-_STRIP // step) * step
    windows = (Window(top, 0, min(strip, height - top), width) for top in range(0, height, strip))
    parts = [raster.read(window).values[::step, ::step].copy() for window in windows]  # a view would keep the whole
    return np.concatenate(parts)


class _Picture(Raster):
    """What Pillow and OpenCV decode, in memory."""

    def __init__(self, path: Path):
        header = read_header(path)
        deep_png = header.dtype == "uint16" and _start(path) == b"\x89PNG"
        pixels, self.record = read_deep_png(path) if deep_png else read_image(path)
        self._pixels = _pixels(pixels, [None] * pixels.shape[2], np.zeros(pixels.shape[:2], bool))

    def read(self, window: Window) -> Pixels:
        """See the base class."""
        return _part(self._pixels, window)


class _GeoRaster(Raster):
    """What GDAL reads, a window at a time."""

    def __init__(self, path: Path):
        with reading(path), open_geotiff(path) as dataset:
            self.record, self._bands, self._masked = describe_geotiff(path, dataset)
            self.georeference = Georeference.of(dataset)
            self._nodata = [dataset.nodatavals[band - 1] for band in self._bands]

    def __enter__(self) -> Self:
        self._dataset = open_geotiff(self.record.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dataset.close()

    def read(self, window: Window) -> Pixels:
        """See the base class."""
        bands = self._bands
        place = ((window.top, window.top + window.height), (window.left, window.left + window.width))
        with reading(self.record.path):
            values = self._dataset.read(bands, window=place)
            hidden = self._dataset.dataset_mask(window=place) == 0 if self._masked else np.zeros(values.shape[1:], bool)
        return _pixels(values.transpose(1, 2, 0), self._nodata, hidden)


class _Slice(Raster):
    """A slice of a volume, which is read when its `with` block begins."""

    slice: VolumeSlice

    def __init__(self, path: Path):
        file, given, number = parse_slice(path) or (path, None, 0)
        volume = open_volume(file)
        plane = given or volume.grid.plane
        count = volume.grid.slices(plane)
        if file == path and count > 1:
            raise DataError(
                f"volume has {count} slices and nothing says which one is meant",
                where=str(path),
                hint=f"{slice_path(path, plane, count // 2).name} is one",
            )
        if number >= count:
            raise DataError(f"volume has {count} {plane} slices, numbered from 0", where=str(path))
        height, width = volume.grid.size(plane)
        self.record = ImageRecord(path, height, width, volume.bands, volume.dtype, 1)
        self.slice = VolumeSlice(volume, plane, number)

    def __enter__(self) -> Self:
        volume, plane, number = self.slice
        values, hidden = volume.read_slice(plane, number)
        nodata = [None] * self.record.bands
        self._pixels = _pixels(values, nodata, np.zeros(values.shape[:2], bool) if hidden is None else hidden)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._pixels

    def read(self, window: Window) -> Pixels:
        """See the base class."""
        return _part(self._pixels, window)


def _part(pixels: Pixels, window: Window) -> Pixels:
    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
    values, missing = pixels
    return Pixels(values[rows, columns], None if missing is None else missing[rows, columns])


def _pixels(values: Array, nodata: Sequence[float | None], hidden: Array) -> Pixels:
    """Decide which pixels are missing, by the rule of the module, and make the others uint8 or float32."""
    empty = [np.zeros(hidden.shape, bool) if none is None else values[..., i] == none for i, none in enumerate(nodata)]
    reached = values.dtype.kind == "u"
    missing = hidden | (np.all(empty, axis=0) if reached else np.any(empty, axis=0))
    if values.dtype != np.uint8:
        with np.errstate(over="ignore"):  # beyond float32 is infinity, and so missing
            values = values.astype(np.float32)
        missing |= ~np.isfinite(values).all(-1)
    if not missing.any():
        return Pixels(np.ascontiguousarray(values), None)
    return Pixels(np.where(missing[..., None], values.dtype.type(0), values), missing)


def _needs_rasterio(path: Path) -> bool:
    """Say whether a file is a TIFF that Pillow cannot read, would read only in part, or would rob of its place."""
    if _start(path) not in _TIFF_STARTS:
        return False
    try:
        with open_binary(path) as file, without_reader_warnings(), Image.open(file, formats=("TIFF",)) as image:
            tags: Any = getattr(image, "tag_v2", {})
            pages, pixels = getattr(image, "n_frames", 1), image.width * image.height
            deep_colour = ";16" in str(getattr(image, "tile", "")) and not image.mode.startswith("I")
    except PILLOW_ERRORS:
        return True
    signed = 2 in tags.get(_SAMPLE_FORMAT, (1,))
    more_bands = any(kind == 0 for kind in tags.get(_EXTRA_SAMPLES, ()))  # neither kind of alpha
    georeferenced = any(tag in tags for tag in _GEO_TAGS)
    return signed or more_bands or georeferenced or deep_colour or pages > 1 or pixels > MAX_PIXELS


def _start(path: Path) -> bytes:
    try:
        with open_binary(path) as file:
            return file.read(4)
    except OSError:  # reading it says what is wrong with it
        return b""
