"""Image files to arrays, by one set of rules for training, evaluation and prediction.

The array is upright (the EXIF orientation is applied), RGB or grey, and has the file's own depth. Palettes and CMYK
become RGB; an alpha channel is dropped and the colours below it kept. A file that is cut off or does not decode is an
error, never half a picture.

OpenCV decodes JPEGs, to the same pixels as Pillow (see `jpeg`), and Pillow everything else.
"""

import glob
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from densenet_suite.archives.members import open_binary
from densenet_suite.errors import DataError
from densenet_suite.image_opening import (
    MAX_PIXELS,
    SCALE_DOWN,
    SIDEWAYS,
    SIXTEEN_BIT,
    ImageRecord,
    check_depth,
    check_file,
    open_image,
    record_of,
)
from densenet_suite.jpeg import JPEG_SUFFIXES, decode_jpeg, plain_header, reduction
from densenet_suite.pixel_cache import PixelCache

_MOST_BYTES = 64 * 2**20  # of a JPEG that is read before its header is looked at
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def read_image(path: Path | str, at_least: tuple[int, int] | None = None) -> tuple[np.ndarray[Any, Any], ImageRecord]:
    """Decode a file to an array [h w c] of uint8, uint16 or float32, upright; c is 1 or 3.

    Args:
        path: of the file.
        at_least: (height, width) that is enough: the array may be smaller than the record says, see
            `jpeg.reduction`. None for the whole picture.

    Raises:
        DamagedImageError: the file is missing, empty, damaged or not an image.
        DataError: it has several pages, more than 100 million pixels, or colours of 16 bits, which Pillow cuts to 8.
    """
    path = Path(path)
    plain = _plain_jpeg(path, at_least)
    if plain is not None:
        return plain
    with open_image(path) as image:
        record = record_of(path, image)
        if record.dtype == "uint16" and image.mode not in SIXTEEN_BIT:
            raise DataError("colours have 16 bits, of which 8 would be lost", where=str(path), hint=SCALE_DOWN)
        array = _jpeg_pixels(image, reduction(path, (record.height, record.width), at_least))
        array = _pixels(image, record) if array is None else _upright(array, record.orientation)
    if array.ndim == 2:
        array = array[:, :, None]
    return np.ascontiguousarray(array), record


def read_deep_png(path: Path | str) -> tuple[np.ndarray[Any, Any], ImageRecord]:
    """Decode a PNG of 16 bits to uint16 [h w c], upright; c is 1 or 3. Pillow would cut its colours to 8 bits.

    Raises:
        DataError: the file is missing, empty, damaged, or has more than 100 million pixels.
    """
    path = Path(path)
    with open_image(path) as image:
        record = record_of(path, image)
        image.load()  # notices damage, where OpenCV returns half a picture
    with open_binary(path) as file:
        decoded = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise DataError("OpenCV does not read this PNG in 16 bits", where=str(path), hint=SCALE_DOWN)
    if decoded.ndim == 2:
        decoded = decoded[:, :, None]
    colours = decoded[..., :1] if record.bands == 1 else decoded[..., 2::-1]
    return np.ascontiguousarray(_upright(colours, record.orientation)), record


def read_pixels(
    path: Path | str, bands: int, at_least: tuple[int, int] | None = None
) -> tuple[np.ndarray[Any, Any], ImageRecord]:
    """Decode a file to uint8 [h w bands]: grey is repeated for 3 bands, colour becomes luma for 1.

    Args:
        path: of the file.
        bands: 1 or 3.
        at_least: as in `read_image`.

    Raises:
        DataError: as `read_image`, and for pixels of more than 8 bits, which are never cut down unasked.
    """
    array, record = read_image(path, at_least)
    check_depth(record)
    if bands == 3 and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif bands == 1 and array.shape[2] == 3:
        array = np.array(Image.fromarray(array).convert("L"))[:, :, None]
    return array, record


def read_cached(
    cache: PixelCache | None, path: Path, bands: int, size: tuple[int, int], at_least: tuple[int, int] | None = None
) -> np.ndarray[Any, Any]:
    """Return `read_pixels` of a picture of known size, from the cache where it is there; it is not to be changed.

    Args:
        cache: None for none.
        path: of the file.
        bands: 1 or 3.
        size: (height, width) that the picture had when its labels were checked.
        at_least: as in `read_image`.

    Raises:
        DataError: as `read_pixels`, and for a picture that has another size now.
    """

    def read() -> np.ndarray[Any, Any]:
        pixels, record = read_pixels(path, bands, at_least)
        if (record.height, record.width) != size:
            raise DataError("the picture has another size than when training began", where=str(path))
        return pixels

    if cache is None:
        return read()
    return cache.get(path, f"pixels of {bands} bands at 1/{reduction(path, size, at_least)}", read)


def find_images(source: Path | str) -> list[Path]:
    """Return the image files that a file, a folder (searched to its depths) or a shell pattern means, sorted.

    Raises:
        DataError: there are none.
    """
    text = str(source)
    path = Path(text).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
        if not found:
            raise DataError("folder holds no images", where=text, hint=f"known are {', '.join(IMAGE_SUFFIXES)}")
        return sorted(found)
    if path.exists() or not any(character in text for character in "*?["):
        return [path]  # reading it says what is wrong with it
    found = [Path(file) for file in glob.glob(str(path), recursive=True)]
    if not found:
        raise DataError("no file matches the pattern", where=text)
    return sorted(file for file in found if file.is_file())


def _plain_jpeg(path: Path, at_least: tuple[int, int] | None) -> tuple[np.ndarray[Any, Any], ImageRecord] | None:
    """Decode what most pictures are without Pillow; None where it has to look, or to say what is wrong."""
    if path.suffix.lower() not in JPEG_SUFFIXES:
        return None
    try:
        if check_file(path) > _MOST_BYTES:
            return None
        with open_binary(path) as file:
            content = file.read()
    except OSError:
        return None
    header = plain_header(content)
    if header is None or header[0] * header[1] > MAX_PIXELS:
        return None
    height, width, bands = header
    by = reduction(path, (height, width), at_least)
    array = decode_jpeg(content, bands, by)
    if array is None or array.shape[:2] != (-(-height // by), -(-width // by)):
        return None
    return array.reshape(*array.shape[:2], bands), ImageRecord(path, height, width, bands, "uint8", 1)


def _jpeg_pixels(image: Image.Image, by: int) -> np.ndarray[Any, Any] | None:
    """Decode a JPEG as it is stored; None where it is none, or OpenCV will not, so that Pillow may say why."""
    if not isinstance(image, JpegImageFile) or image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    assert image.fp is not None  # it has been opened, and not been decoded
    image.fp.seek(0)
    return decode_jpeg(image.fp.read(), len(image.mode), by)


def _pixels(image: Image.Image, record: ImageRecord) -> np.ndarray[Any, Any]:
    """Decode a picture with Pillow, upright."""
    upright = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BIT:
        array = np.asarray(upright)
        if array.min() < 0 or array.max() > 65535:
            raise DataError(f"{image.mode} image holds values outside 0..65535", where=str(record.path))
        return array.astype(np.uint16)
    if image.mode == "F":
        return np.array(upright, dtype=np.float32)
    if record.bands == 1:
        return np.array(upright.convert("L"))
    return np.array(_without_alpha(upright).convert("RGB"))


def _upright(array: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Turn stored pixels [h w c] the way that the EXIF orientation says, as `ImageOps.exif_transpose` does."""
    if orientation in SIDEWAYS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "PA" or "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image
