"""Opening image files: what is none is refused, and what their headers say is told without decoding them."""

import logging
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from densenet_suite.archives.members import file_size, member_of, open_binary
from densenet_suite.errors import DataError
from densenet_suite.reader_warnings import without_reader_warnings

# what Pillow's TIFF reader logs as an error it also raises, and that is told here
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

MAX_PIXELS = 100_000_000

# of all that Pillow would open by its first bytes, whatever the file is called: EPS among them would start Ghostscript
_KINDS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "WEBP", "GIF", "PPM")

# what Pillow raises when a file is not what its first bytes promise
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error, Image.DecompressionBombError),
    *(MemoryError, OverflowError),  # a few bytes may ask for terabytes
)

SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_ORIENTATIONS = range(1, 9)
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
SCALE_DOWN = "scale the file to 8 bits in the way that suits it, for example: gdal_translate -ot Byte -scale"


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
        DataError: as `open_image`; damage behind the header goes unnoticed.
    """
    path = Path(path)
    with open_image(path) as image:
        return record_of(path, image)


def check_depth(record: ImageRecord) -> None:
    """Refuse pixels of more than 8 bits; the header is enough to know.

    Raises:
        DataError: they have more.
    """
    if record.dtype != "uint8":
        raise DataError(f"pixels are {record.dtype}, this model takes 8 bits", where=str(record.path), hint=SCALE_DOWN)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open a file with Pillow, without decoding it; what fails inside the block is told as what is wrong with the file.

    Raises:
        DamagedImageError: the file is missing, empty, damaged or not an image.
        DataError: it has several pages or more than 100 million pixels.
    """
    try:
        check_file(path)
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


def check_file(path: Path) -> int:
    """Return the bytes of a file, which is none that makes a reader wait, and not empty."""
    if member_of(path) is None and _makes_wait(path.stat().st_mode):
        raise DataError("image is no file but a pipe or device", where=str(path))
    size = file_size(path)
    if size == 0:
        raise DamagedImageError("image file is empty", where=str(path))
    return size


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


def record_of(path: Path, image: Image.Image) -> ImageRecord:
    """Return what the header of an opened file says."""
    dtype = _dtype(image)
    stored: Any = _exif(image).get(ExifTags.Base.Orientation)
    orientation = int(stored) if stored in _ORIENTATIONS else 1  # text, fractions and 0 occur, and mean nothing
    width, height = image.size
    if orientation in SIDEWAYS and image.format != "TIFF":  # of which Pillow tells the upright size
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode in SIXTEEN_BIT
    return ImageRecord(path, height, width, 1 if grey else 3, dtype, orientation)


def _dtype(image: Image.Image) -> str:
    """Return the depth of the file, which the mode does not always tell: Pillow opens 16-bit colour as 8-bit."""
    if image.mode == "F":
        return "float32"
    stored = str(getattr(image, "tile", "")) if image.format in ("PNG", "TIFF") else ""
    return "uint16" if image.mode in SIXTEEN_BIT or ";16" in stored else "uint8"


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
