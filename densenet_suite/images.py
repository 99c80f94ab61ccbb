"""Image files to arrays, by one set of rules for training, evaluation and prediction.

The array is upright (the EXIF orientation is applied), RGB or grey, and has the file's own depth. Palettes and CMYK
become RGB; an alpha channel is dropped and the colours below it kept. A file that is cut off or does not decode is an
error, never half a picture.

OpenCV decodes JPEGs, to the same pixels as Pillow (see `jpeg`), and Pillow everything else.
"""

import glob
import logging
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from densenet_suite.archives.members import file_size, member_of, open_binary
from densenet_suite.errors import DataError
from densenet_suite.jpeg import JPEG_SUFFIXES, decode_jpeg, plain_header, reduction
from densenet_suite.pixel_cache import PixelCache
from densenet_suite.reader_warnings import without_reader_warnings

# what Pillow's TIFF reader logs as an error it also raises, and that is told here
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

MAX_PIXELS = 100_000_000
_MOST_BYTES = 64 * 2**20  # of a JPEG that is read before its header is looked at
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# of all that Pillow would open by its first bytes, whatever the file is called: EPS among them would start Ghostscript
_KINDS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM")

# what Pillow raises when a file is not what its first bytes promise
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error, Image.DecompressionBombError),
    *(MemoryError, OverflowError),  # a few bytes may ask for terabytes
)

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_ORIENTATIONS = range(1, 9)
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_SCALE_DOWN = "scale the file to 8 bits in the way that suits it, for example: gdal_translate -ot Byte -scale"


class DamagedImageError(DataError):
    """A picture that is missing, empty, cut off or no picture: `data.damaged: skip` leaves it out."""


@dataclass(frozen=True)
class ImageRecord:
    """What a file's header says: size in pixels of the upright picture, bands, depth, stored orientation."""

    path: Path
    height: int
    width: int
    bands: int
    dtype: str
    orientation: int


def read_header(path: Path | str) -> ImageRecord:
    """Read size, bands and depth without decoding the picture.

    Raises:
        DataError: as `read_image`, but damage behind the header goes unnoticed.
    """
    path = Path(path)
    with open_image(path) as image:
        return _record(path, image)


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
        record = _record(path, image)
        if record.dtype == "uint16" and image.mode not in _SIXTEEN_BIT:
            raise DataError("colours have 16 bits, of which 8 would be lost", where=str(path), hint=_SCALE_DOWN)
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
        record = _record(path, image)
        image.load()  # notices damage, where OpenCV returns half a picture
    with open_binary(path) as file:
        decoded = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise DataError("OpenCV does not read this PNG in 16 bits", where=str(path), hint=_SCALE_DOWN)
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


def check_depth(record: ImageRecord) -> None:
    """Refuse pixels of more than 8 bits; the header is enough to know.

    Raises:
        DataError: they have more.
    """
    if record.dtype != "uint8":
        raise DataError(f"pixels are {record.dtype}, this model takes 8 bits", where=str(record.path), hint=_SCALE_DOWN)


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


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open a file with Pillow, without decoding it; what fails inside the block is told as what is wrong with the file.

    Raises:
        DamagedImageError: the file is missing, empty, damaged or not an image.
        DataError: it has several pages or more than 100 million pixels.
    """
    try:
        _check_file(path)
        # of a file that is named Pillow maps the pixels of some TIFFs into memory, and forgets how they are turned
        with open_binary(path) as file, without_reader_warnings(), Image.open(file, formats=_KINDS) as image:
            _check_size(path, image)
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DamagedImageError("image file does not exist", where=str(path)) from None
    except Image.DecompressionBombError as error:
        raise DataError(
            f"image is larger than {MAX_PIXELS:,} pixels: {error}", where=str(path), hint="cut it into tiles"
        ) from None
    except UnidentifiedImageError:
        raise DamagedImageError("file is not an image of a known kind", where=str(path)) from None
    except PILLOW_ERRORS as error:
        what = "it asks for too much memory" if isinstance(error, MemoryError) else error
        raise DamagedImageError(f"image file is damaged: {what}", where=str(path)) from error


def _check_file(path: Path) -> int:
    """Return the bytes of a file, which is none that makes a reader wait, and not empty."""
    if member_of(path) is None and _makes_wait(path.stat().st_mode):
        raise DataError("image is no file but a pipe or device", where=str(path))
    size = file_size(path)
    if size == 0:
        raise DamagedImageError("image file is empty", where=str(path))
    return size


def _plain_jpeg(path: Path, at_least: tuple[int, int] | None) -> tuple[np.ndarray[Any, Any], ImageRecord] | None:
    """Decode what most pictures are without Pillow; None where it has to look, or to say what is wrong."""
    if path.suffix.lower() not in JPEG_SUFFIXES:
        return None
    try:
        if _check_file(path) > _MOST_BYTES:
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


def _makes_wait(mode: int) -> bool:
    return any(kind(mode) for kind in (stat.S_ISFIFO, stat.S_ISSOCK, stat.S_ISCHR))


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(
            f"image has {width}x{height} pixels, the limit is {MAX_PIXELS:,}",
            where=str(path),
            hint="cut it into tiles",
        )
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise DataError(
            f"TIFF has {getattr(image, 'n_frames', 1)} pages and nothing says which one is meant",
            where=str(path),
            hint="write the page you mean to a file of its own",
        )


def _record(path: Path, image: Image.Image) -> ImageRecord:
    dtype = _dtype(image)
    stored: Any = _exif(image).get(ExifTags.Base.Orientation)
    orientation = int(stored) if stored in _ORIENTATIONS else 1  # text, fractions and 0 occur, and mean nothing
    width, height = image.size
    if orientation in _SIDEWAYS and image.format != "TIFF":  # of which Pillow tells the upright size
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode in _SIXTEEN_BIT
    return ImageRecord(path, height, width, 1 if grey else 3, dtype, orientation)


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
    if image.mode in _SIXTEEN_BIT:
        array = np.asarray(upright)
        if array.min() < 0 or array.max() > 65535:
            raise DataError(f"{image.mode} image holds values outside 0..65535", where=str(record.path))
        return array.astype(np.uint16)
    if image.mode == "F":
        return np.array(upright, dtype=np.float32)
    if record.bands == 1:
        return np.array(upright.convert("L"))
    return np.array(_without_alpha(upright).convert("RGB"))


def _dtype(image: Image.Image) -> str:
    """Return the depth of the file, which the mode does not always tell: Pillow opens 16-bit colour as 8-bit."""
    if image.mode == "F":
        return "float32"
    stored = str(getattr(image, "tile", "")) if image.format in ("PNG", "TIFF") else ""
    return "uint16" if image.mode in _SIXTEEN_BIT or ";16" in stored else "uint8"


def _exif(image: Image.Image) -> Image.Exif:
    # asked for the EXIF data of a PNG, Pillow decodes the picture, as they may stand behind it
    if isinstance(image, PngImageFile) and image.fp and not _has_text_behind_pixels(image.fp):
        return Image.Image.getexif(image)
    return image.getexif()


def _has_text_behind_pixels(png: IO[bytes]) -> bool:
    place = png.tell()
    png.seek(8)
    pixels = False
    try:
        while len(head := png.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            pixels = pixels or kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            png.seek(length + 4, 1)
        return False
    finally:
        png.seek(place)


def _upright(array: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """Turn stored pixels [h w c] the way that the EXIF orientation says, as `ImageOps.exif_transpose` does."""
    if orientation in _SIDEWAYS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "PA" or "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image
