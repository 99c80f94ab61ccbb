"""What the files of a scene hold, before anything is known of their meaning: headers of images, values of masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from densenet_suite.archives.members import open_binary
from densenet_suite.errors import DataError
from densenet_suite.findings import FaultError
from densenet_suite.image_opening import ImageRecord, open_image, read_header
from densenet_suite.rasters import is_raster, open_raster, read_raster
from densenet_suite.volumes.scenes import is_volume

Array = np.ndarray[Any, Any]
_SINGLE = ("1", "L", "P", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_SEVERAL = ("LA", "PA", "RGB", "RGBA", "RGBX", "CMYK")
_GDAL_NODATA = 42113  # the tag that says which value is no data
_NO_VALUE = -(2**31)  # stands where there is no data, and is in no class table


class MaskError(FaultError):
    """A mask that cannot be used as it is."""


@dataclass(frozen=True)
class RawMask:
    """A mask before anything is known of its meaning.

    Attributes:
        path: of the file.
        values: [h w c], upright; whole numbers of any type.
        palette: uint8 [n 3], the colours that values are indices of.
        lossy: saved in a format that changes values.
        one_bit: holds only black and white, here 0 and 1.
        nodata: bool [h w], pixels that the file says are no data.
    """

    path: Path
    values: Array
    palette: Array | None = None
    lossy: bool = False
    one_bit: bool = False
    nodata: Array | None = None

    @property
    def is_coloured(self) -> bool:
        """Whether it has colours rather than one number for each pixel; greys in three channels are one number."""
        return self.values.shape[2] in (3, 4) and not np.all(self.values[:, :, :3] == self.values[:, :, :1])


def read_scene_header(path: Path) -> ImageRecord:
    """Read size, bands and depth of an image.

    Raises:
        DataError: the file is missing, or no image that can be read.
    """
    return open_raster(path).record if is_raster(path) else read_header(path)


def read_raw_mask(path: Path) -> RawMask:
    """Read the values of a mask file, or of a slice of a label volume.

    Raises:
        DataError: the file is missing, damaged, not an image, has several pages, or its numbers are not whole.
    """
    try:
        raw = None if is_volume(path) else _read_with_pillow(path)
    except DataError as error:
        if "not an image of a known kind" not in error.problems[0].what:
            raise
        raw = None
    if raw is not None:
        return raw
    array, nodata, _ = read_raster(path)
    if nodata is not None:
        array = np.where(nodata[:, :, None], np.float32(np.nan), array)
    return _whole_numbers(RawMask(path, array, nodata=nodata))


def _read_with_pillow(path: Path) -> RawMask | None:
    """Return None for what Pillow would change."""
    with open_image(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"mask file has {getattr(image, 'n_frames', 1)} pages or frames", where=str(path))
        if image.mode not in _SINGLE + _SEVERAL:
            return None
        if image.mode in _SEVERAL and image.format in ("PNG", "TIFF") and read_header(path).dtype != "uint8":
            return None
        lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and _is_lossy_webp(path))
        declared = getattr(image, "tag_v2", {}).get(_GDAL_NODATA)
        upright = ImageOps.exif_transpose(image)
        if image.mode == "CMYK":
            upright = upright.convert("RGB")
        array = np.array(upright)
        palette = _palette(upright)
    one_bit = array.dtype == bool
    array = array.astype(np.uint8) if one_bit else array
    if image.mode in ("LA", "PA"):
        array = array[:, :, 0]
    nodata = _declared(array, declared)
    values = array[:, :, None] if array.ndim == 2 else array
    return _whole_numbers(RawMask(path, values, palette, lossy, one_bit, nodata))


def _palette(image: Image.Image) -> Array | None:
    if image.mode not in ("P", "PA") or image.palette is None:
        return None
    colours = np.frombuffer(bytes(image.getpalette("RGB") or b""), np.uint8).reshape(-1, 3)
    return np.concatenate([colours, np.zeros((256 - len(colours), 3), np.uint8)])


def _is_lossy_webp(path: Path) -> bool:
    with open_binary(path) as file:
        return b"VP8 " in file.read(64 * 1024)


def _declared(array: Array, declared: object) -> Array | None:
    """Return where a TIFF has the value that it declares to be no data."""
    try:
        value = float(str(declared).strip("\x00 "))
    except ValueError:
        return None
    return np.asarray(np.isnan(array) if np.isnan(value) else array == value)


def _whole_numbers(raw: RawMask) -> RawMask:
    """Return the mask with integers; NaN is no data."""
    if raw.values.dtype.kind != "f":
        return raw
    missing = np.isnan(raw.values)
    values = np.where(missing, _NO_VALUE, raw.values)
    broken = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) > 2**31)
    if broken.any():
        row, column = (int(i[0]) for i in np.nonzero(broken.any(2)))
        raise MaskError(
            "mask-fractions",
            f"mask holds {raw.values[broken][0]}, which is no whole number, in {int(broken.sum())} pixels, "
            f"the first at row {row}, column {column}",
            where=str(raw.path),
            hint="a mask numbers classes; probabilities have to be decided first",
        )
    nodata = np.asarray(missing.any(2) if raw.nodata is None else raw.nodata | missing.any(2))
    return RawMask(raw.path, values.astype(np.int64), raw.palette, raw.lossy, raw.one_bit, nodata)
