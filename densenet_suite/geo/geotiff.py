"""GeoTIFFs, read and written by windows, through rasterio (the extra `geo`)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from densenet_suite.archives.members import member_of
from densenet_suite.errors import DataError
from densenet_suite.image_opening import DamagedImageError, ImageRecord
from densenet_suite.reader_warnings import without_reader_warnings

Array = np.ndarray[Any, Any]

MAX_BANDS = 4096  # GDAL takes time and memory for each, pixels or not
_CACHE = 128 * 2**20  # GDAL takes a twentieth of the machine's memory otherwise
_BLOCK = 256


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies on the ground, in rasterio's terms.

    Attributes:
        crs: None where the file has none.
        transform: affine, from (column, row) to (x, y).
        points: ground control points, of rasters without a transform.
    """

    crs: Any
    transform: Any
    points: tuple[Any, ...] = ()

    @classmethod
    def of(cls, dataset: Any) -> Self:
        """Take over what an open file says."""
        points, crs = dataset.gcps
        return cls(crs, dataset.transform, tuple(points)) if points else cls(dataset.crs, dataset.transform)


def open_geotiff(path: Path) -> Any:
    """Open a file to read; rasterio's dataset closes itself at the end of a `with` block.

    Raises:
        DamagedImageError: the file is damaged.
    """
    import rasterio

    with reading(path), without_reader_warnings():
        return rasterio.open(_gdal_name(path), driver="GTiff")


def _gdal_name(path: Path) -> str:
    """Return how GDAL calls a file, or a member of an archive."""
    member = member_of(path)
    return str(path) if member is None else f"/vsisubfile/{member.offset}_{member.size},{member.archive}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Bound GDAL's memory, and turn its errors into a DamagedImageError with the name of the file.

    Whatever reads pixels belongs into such a block: the bound does not outlive it.
    """
    import rasterio
    from rasterio._err import CPLE_BaseError  # GDAL's own errors, which rasterio does not always translate

    try:
        with rasterio.Env(GDAL_CACHEMAX=_CACHE):
            yield
    except (rasterio.errors.RasterioError, CPLE_BaseError) as error:
        raise DamagedImageError(f"image file is damaged: {error}", where=str(path)) from error


def describe_geotiff(path: Path, dataset: Any) -> tuple[ImageRecord, list[int], bool]:
    """Return the header of an open file, the numbers of its bands from 1, and whether it says which pixels are valid.

    GDAL reads more of a file with each question, so this belongs into a `reading` block.

    An alpha band is no band, but what says so, if it is one: GDAL labels the fourth of four 8-bit bands so, whatever it
    holds, near infrared too. One that holds more than nothing and everything is a band like any other.

    Raises:
        DataError: the file has several pages, a palette, no band, thousands of them, or complex numbers.
    """
    from rasterio.enums import ColorInterp

    if len(dataset.subdatasets) > 1:
        raise DataError(
            f"TIFF has {len(dataset.subdatasets)} pages and nothing says which one is meant",
            where=str(path),
            hint="write the page you mean to a file of its own",
        )
    if dataset.count > MAX_BANDS:
        raise DataError(f"raster has {dataset.count:,} bands, the limit is {MAX_BANDS:,}", where=str(path))
    meanings = dataset.colorinterp
    alpha = [band for band in dataset.indexes if meanings[band - 1] == ColorInterp.alpha]
    alpha = [band for band in alpha if _only_shows_or_hides(dataset, band)]
    bands = [band for band in dataset.indexes if band not in alpha]
    if not bands or ColorInterp.palette in meanings:
        what = "has no band but alpha" if not bands else "holds numbers of a palette, not colours"
        raise DataError(f"raster {what}", where=str(path), hint="gdal_translate -expand rgb writes colours")
    dtype = "complex64" if any("complex" in name for name in dataset.dtypes) else str(np.result_type(*dataset.dtypes))
    if dtype == "complex64":
        raise DataError(
            "pixels are complex numbers", where=str(path), hint="write their magnitude to a file of real numbers"
        )
    flags = {flag.name for flags in dataset.mask_flag_enums for flag in flags}
    masked = bool(alpha) or ("per_dataset" in flags and "alpha" not in flags)
    return ImageRecord(path, dataset.height, dataset.width, len(bands), dtype, 1), bands, masked


def _only_shows_or_hides(dataset: Any, band: int) -> bool:
    """Look at nine places of a band for anything but its least and largest value."""
    sides = [min(_BLOCK, side) for side in dataset.shape]
    places = [[(side - part) * i // 2 for i in range(3)] for side, part in zip(dataset.shape, sides, strict=True)]
    found: set[Any] = set()
    for top in set(places[0]):
        for left in set(places[1]):
            window = ((top, top + sides[0]), (left, left + sides[1]))
            found.update(np.unique(dataset.read(band, window=window)).tolist())
    return found <= {0, np.iinfo(dataset.dtypes[band - 1]).max}


class GeoTiffWriter:
    """Writes a GeoTIFF from its first row to its last, compressed, in blocks; whole or absent, as `files.atomic_write`.

    Args:
        path: of the file.
        size: (height, width).
        dtype: of the pixels, for example "uint8" or "float32".
        names: of the bands.
        georeference: of the raster that the pixels belong to.
        nodata: the value of pixels without data.
        colours: a palette, where there is one band of classes.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        dtype: str,
        names: Sequence[str],
        georeference: Georeference,
        nodata: float,
        colours: Sequence[tuple[int, int, int]] = (),
    ):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        self.size, self.dtype, self.names = size, dtype, tuple(names)
        self.georeference, self.nodata, self.colours = georeference, nodata, colours
        self._written = self._filled = 0
        self._block = np.zeros((len(self.names), _BLOCK, size[1]), dtype)

    def __enter__(self) -> Self:
        import rasterio

        height, width = self.size
        points = self.georeference.points
        place = {"gcps": points} if points else {"transform": self.georeference.transform}
        with without_reader_warnings():
            self._file = rasterio.open(
                self.temporary,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=len(self.names),
                dtype=self.dtype,
                crs=self.georeference.crs,
                **place,
                nodata=self.nodata,
                tiled=True,
                blockxsize=_BLOCK,
                blockysize=_BLOCK,
                interleave="band",
                compress="deflate",
                zlevel=1,
                bigtiff="if_safer",
            )
        self._file.descriptions = self.names
        if self.colours:
            self._file.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(self.colours)})
        return self

    def append(self, rows: Array) -> None:
        """Write the next rows [bands h w]; they are held until they fill a row of blocks."""
        while rows.shape[1]:
            taken = min(_BLOCK - self._filled, rows.shape[1])
            self._block[:, self._filled : self._filled + taken] = rows[:, :taken]
            self._filled += taken
            rows = rows[:, taken:]
            if self._filled == _BLOCK:
                self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._filled:
                self._write()
            self._file.close()
            if kind is None:
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)

    def _write(self) -> None:
        import rasterio

        place = ((self._written, self._written + self._filled), (0, self.size[1]))
        with rasterio.Env(GDAL_CACHEMAX=_CACHE):
            self._file.write(self._block[:, : self._filled], window=place)
        self._written, self._filled = place[0][1], 0
