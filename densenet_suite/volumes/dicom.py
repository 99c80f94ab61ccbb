"""DICOM files, picture by picture: the only module that knows pydicom (the extra `medical`).

Only what says how pixels are stored and where they lie is read: names and dates are not, the number of a patient only
as a digest, to keep patients together, and no message repeats what a file holds.

Not read: JPEG lossless, JPEG-LS, HTJ2K and JPEG of 12 bits, which take packages under other licences or of compiled
code; palettes; look-up tables in place of slope and intercept; segmentation objects (DICOM-SEG); a deflated data set,
which could unpack to any size.
"""

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.image_opening import MAX_PIXELS

Array = np.ndarray[Any, Any]

_TAGS = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"),
    *("PixelRepresentation", "NumberOfFrames", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "SeriesInstanceUID", "SOPClassUID"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
# where a file of many frames keeps what others have at their top
_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_FILM_SIZE = 65_536  # frames


@dataclass(frozen=True)
class Frame:
    """One picture of a file, and what is said of it."""

    path: Path
    number: int
    size: tuple[int, int]
    samples: int
    bits: int
    dtype: str
    slope: float
    intercept: float
    mirrored: bool
    padding: tuple[float, float] | None
    window: tuple[float, float] | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...]
    thickness: float
    series: str

    @property
    def rescaled(self) -> bool:
        """Whether values are others than are stored."""
        return (self.slope, self.intercept) != (1, 0)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value that the stored bits can hold."""
        low, high = (
            (0, 2**self.bits - 1) if self.dtype[0] == "u" else (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        )
        return low * self.slope + self.intercept, high * self.slope + self.intercept


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_dicom(path))


def is_dicom(path: Path) -> bool:
    """Say whether a file is a DICOM file: by its ending .dcm, or, where it has none or a number, by its first bytes."""
    ending = path.suffix[1:].lower()
    if path.name.startswith(".") or (ending not in ("", "dcm") and not ending.isdigit()) or not path.is_file():
        return False
    if ending == "dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_series(files: Sequence[Path]) -> bool:
    """Say whether several files belong to one series.

    Raises:
        DataError: one of them is damaged.
    """
    return len(files) > 1 and len({_text_in(file, "SeriesInstanceUID") for file in files}) == 1


def patient_of(file: Path) -> str | None:
    """Return a digest of the patient's number, by which files of one patient are known; None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    number = _text_in(file, "PatientID").strip()
    return hashlib.blake2b(number.encode(), digest_size=16).hexdigest() if number else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell what pydicom raises as what is wrong with the file, without its words: they may hold a patient's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError("volume does not exist", where=str(path)) from None
    except MemoryError:
        raise DataError("DICOM file asks for more memory than there is", where=str(path)) from None
    except Exception as error:  # pydicom lets through whatever a damaged file leads to
        raise DataError(f"DICOM file is damaged: {type(error).__name__}", where=str(path)) from None


def _header(path: Path, tags: Sequence[str]) -> Any:
    import pydicom

    with _reading(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        if str(getattr(meta, "TransferSyntaxUID", "")) == _DEFLATED:
            raise DataError("DICOM file is deflated as a whole", where=str(path), hint="dcmconv +te unpacks it")
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))


def read_frames(path: Path) -> list[Frame]:
    """Return the pictures of a file.

    Raises:
        DataError: it is damaged, or holds none that is read here.
    """
    header = _header(path, _TAGS)
    with _reading(path):
        _check_kind(path, header)
        count = int(getattr(header, "NumberOfFrames", None) or 1)
        if not 0 < count <= _FILM_SIZE:
            raise DataError(f"DICOM file has {count} frames, the limit is {_FILM_SIZE:,}", where=str(path))
        shared = (getattr(header, "SharedFunctionalGroupsSequence", None) or [None])[0]
        own = getattr(header, "PerFrameFunctionalGroupsSequence", None) or [None] * count
        return [_frame(path, i, count, header, own[i], shared) for i in range(count)]


def _check_kind(path: Path, header: Any) -> None:
    """Refuse files whose numbers are no picture's."""
    size = [getattr(header, name, None) for name in ("Rows", "Columns", "BitsAllocated")]
    rows, columns, bits = (part or 0 for part in size)
    if not 0 < rows * columns <= MAX_PIXELS or bits not in (8, 16, 32):
        raise DataError(
            f"DICOM file holds no picture: rows, columns and bits are {', '.join(str(part) for part in size)}",
            where=str(path),
        )
    if _text(header, "SOPClassUID") == _SEGMENTATION:
        raise DataError(
            "DICOM segmentation objects are not read", where=str(path), hint="segimage2itkimage writes NIfTI from them"
        )
    colours = _text(header, "PhotometricInterpretation")
    if colours.startswith("PALETTE") or "ModalityLUTSequence" in header:
        what = (
            "numbers of a palette" if colours.startswith("PALETTE") else "numbers that a look-up table gives a meaning"
        )
        raise DataError(f"pixels are {what}", where=str(path), hint="dcmconv and dcm2pnm can write values or colours")


def _frame(path: Path, number: int, count: int, header: Any, own: Any, shared: Any) -> Frame:
    def found(name: str) -> Any:
        for group in (own, shared):
            inner = getattr(group, _GROUPS.get(name, ""), None) if group is not None else None
            if inner and name in inner[0]:
                return getattr(inner[0], name)
        return getattr(header, name, None)

    alone = count == 1 or own is not None
    position, orientation = (
        _numbers(found(name)) if alone else None for name in ("ImagePositionPatient", "ImageOrientationPatient")
    )
    signed = bool(getattr(header, "PixelRepresentation", 0))
    bits = int(header.BitsAllocated)
    slope, intercept = (
        _number(found(name), default) for name, default in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    centre, width = (_numbers(found(name)) for name in ("WindowCenter", "WindowWidth"))
    spacings = (_numbers(found(name)) for name in ("PixelSpacing", "ImagerPixelSpacing"))
    padding = getattr(header, "PixelPaddingValue", None)
    limit = getattr(header, "PixelPaddingRangeLimit", padding)
    frame = Frame(
        path=path,
        number=number,
        size=(int(header.Rows), int(header.Columns)),
        samples=int(getattr(header, "SamplesPerPixel", 1)),
        bits=int(getattr(header, "BitsStored", bits)),
        dtype=f"{'' if signed else 'u'}int{bits}",
        slope=slope,
        intercept=intercept,
        mirrored=_text(header, "PhotometricInterpretation") == "MONOCHROME1",
        padding=None if padding is None else (min(padding, limit), max(padding, limit)),
        window=(centre[0], width[0]) if centre and width else None,
        position=position if position and len(position) == 3 else None,
        orientation=orientation if orientation and len(orientation) == 6 else None,
        spacing=next((spacing for spacing in spacings if len(spacing) == 2), (1.0, 1.0)),
        thickness=abs(_number(found("SpacingBetweenSlices"), 0) or _number(found("SliceThickness"), 0)) or 1.0,
        series=_text(header, "SeriesInstanceUID"),
    )
    if not all(
        map(math.isfinite, (slope, intercept, *frame.spacing, frame.thickness, *(position or ()), *(orientation or ())))
    ):
        raise DataError("spacing, position or slope is not a finite number", where=str(path))
    return frame


def decode(frame: Frame) -> Array:
    """Return the stored values of a picture [h w samples]."""
    from pydicom.pixels import pixel_array

    with _reading(frame.path):
        try:
            values = np.asarray(pixel_array(frame.path, index=frame.number))
        except (RuntimeError, NotImplementedError):
            import pydicom

            syntax = pydicom.filereader.read_file_meta_info(frame.path).get("TransferSyntaxUID")
            raise DataError(
                f"pixels cannot be unpacked: they are stored as {getattr(syntax, 'name', 'unknown')}",
                where=str(frame.path),
                hint="dcmdjpeg or gdcmconv --raw writes them without compression",
            ) from None
    if values.shape[:2] != frame.size:
        raise DataError(f"pixels have the shape {values.shape}, the header says {frame.size}", where=str(frame.path))
    return values.reshape(*frame.size, frame.samples)


def _text_in(path: Path, name: str) -> str:
    header = _header(path, [name])
    with _reading(path):
        return _text(header, name)


def _text(header: Any, name: str) -> str:
    return str(getattr(header, name, "") or "")


def _numbers(value: Any) -> tuple[float, ...]:
    """Return the numbers of a field; none where it is not there."""
    if value is None or value == "":
        return ()
    several = not isinstance(value, str) and hasattr(value, "__iter__")
    return tuple(float(part) for part in (value if several else (value,)))


def _number(value: Any, default: float) -> float:
    return (_numbers(value) or (default,))[0]
