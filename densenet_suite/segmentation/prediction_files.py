"""Segmentations to files, row by row: memory grows neither with the number of scenes nor with their height.

A georeferenced scene becomes GeoTIFFs with its own size and place on the ground, the slices of a volume become one
NIfTI file with the grid of its voxels, any other scene PNG and NumPy files. What is written of a volume is held in
memory until then.
"""

import csv
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain, count, groupby
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.files import atomic_write
from densenet_suite.geo.geotiff import GeoTiffWriter
from densenet_suite.segmentation.prediction import Segmentation, draw_scene, drawing_step
from densenet_suite.segmentation.scenes import Rows
from densenet_suite.segmentation.structures import IGNORE
from densenet_suite.segmentation.volume_files import VolumeFiles
from densenet_suite.volumes.voxels import ending_of, file_of

Array = np.ndarray[Any, Any]

OUTPUTS = ("masks", "overlays", "probabilities", "uncertainty")
_UNFIT = re.compile(r"[^\w.-]+")  # for names of folders
_UNKNOWN = (128, 128, 128)  # the colour of 255 in a palette


class _Writer(Protocol):
    """A file in the making: rows [n h w] come in order."""

    def append(self, rows: Array) -> None: ...


def save_segmentations(
    predictions: Iterable[Segmentation], out: str | Path, outputs: Sequence[str] = ("masks", "overlays")
) -> Iterator[Segmentation]:
    """Write segmentations to a folder while they pass through.

    Args:
        predictions: from `predict`.
        out: the folder; made if it is missing.
        outputs: a folder each: "masks" (numbers of classes, 255 where there is no data, with the classes' colours as
            palette; overlapping classes are bands of a GeoTIFF, or a folder of PNGs each), "overlays" (drawn on the
            picture; a folder of slices for a volume), "probabilities" and "uncertainty" (32-bit floats, NaN where they
            mean nothing). predictions.csv, with the pixels of each class and the seam score, is always there.

    Yields:
        each segmentation, once it is written.

    Raises:
        ConfigError: an unknown output.
        DataError: at the end, where files could not be read to their end; it names them all.
    """
    unknown = set(outputs) - set(OUTPUTS)
    if unknown:
        raise ConfigError(f"cannot save {', '.join(sorted(unknown))}", hint=f"known are {', '.join(OUTPUTS)}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return _saving(predictions, folder, outputs)


def _saving(predictions: Iterable[Segmentation], folder: Path, outputs: Sequence[str]) -> Iterator[Segmentation]:
    failed: list[Exception] = []
    with atomic_write(folder / "predictions.csv", "w") as file:
        table = _Table(file)
        names: set[str] = set()
        numbers = count()
        source = _until_failure(predictions, failed)
        for _, scenes in groupby(source, lambda scene: file_of(scene.path) if scene.raster.slice else next(numbers)):
            for scene in _saving_file(scenes, folder, names, outputs, failed):
                table.add(scene)
                yield scene
            if failed and not isinstance(failed[-1], DataError):
                break  # the table holds what came before
    for error in failed:
        if not isinstance(error, DataError):
            raise error
    if failed:
        raise DataError([problem for error in failed if isinstance(error, DataError) for problem in error.problems])


def _until_failure(predictions: Iterable[Segmentation], failed: list[Exception]) -> Iterator[Segmentation]:
    """End where the source fails, so that what came before is written."""
    try:
        yield from predictions
    except Exception as error:
        failed.append(error)


def _saving_file(
    scenes: Iterator[Segmentation], folder: Path, names: set[str], outputs: Sequence[str], failed: list[Exception]
) -> Iterator[Segmentation]:
    """Write the scene of a file, or the slices of a volume; where one fails, none of the files is left."""
    known = len(failed)
    first = next(scenes)
    name = _free_name(file_of(first.path), names)
    try:
        if first.raster.slice is None:
            _save(first, folder, name, outputs)
            yield first
            return
        files = VolumeFiles(first.raster.slice, folder, name)
        for scene in chain([first], scenes):
            _save_slice(scene, files, outputs)
            yield scene
        if files.complete or len(failed) == known:
            files.write()
    except Exception as error:
        failed.append(error)


def _save(prediction: Segmentation, folder: Path, name: str, outputs: Sequence[str]) -> None:
    """Run one scene through and write what is asked for; where it fails, none of its files is left."""
    with ExitStack() as stack:
        writers = {
            output: stack.enter_context(_writer(output, prediction, folder / output, name))
            for output in outputs
            if output != "overlays"
        }

        def take(rows: Rows) -> None:
            for output, writer in writers.items():
                writer.append(_part(output, rows))

        _run(prediction, take, folder / "overlays" / f"{name}.jpg" if "overlays" in outputs else None)


def _save_slice(prediction: Segmentation, files: VolumeFiles, outputs: Sequence[str]) -> None:
    """Run one slice through; its overlay is written at once."""
    place = prediction.raster.slice
    assert place is not None

    def take(rows: Rows) -> None:
        for output in outputs:
            if output != "overlays":
                files.append(output, place.number, rows.top, _part(output, rows))

    overlay = files.folder / "overlays" / files.name / f"{place.plane}-{place.number:03d}.jpg"
    _run(prediction, take, overlay if "overlays" in outputs else None)


def _run(prediction: Segmentation, take: Callable[[Rows], None], overlay: Path | None) -> None:
    """Run a scene through, hand on its rows, and draw them if that is asked for."""
    step = drawing_step(prediction.size)
    drawn: list[Array] = []
    for rows in prediction.rows():
        take(rows)
        if overlay is not None:
            drawn.append(rows.mask[..., -rows.top % step :: step, ::step].copy())  # a view would keep the whole
    if overlay is not None:
        overlay.parent.mkdir(parents=True, exist_ok=True)
        picture = draw_scene(prediction.raster, np.concatenate(drawn, axis=-2), prediction.classes)
        with atomic_write(overlay) as file:
            picture.save(file, "JPEG", quality=92, subsampling=0)  # outlines keep their colours


def _part(output: str, rows: Rows) -> Array:
    if output == "probabilities":
        return rows.probabilities
    if output == "uncertainty":
        return rows.uncertainty[None]
    return rows.mask if rows.mask.ndim == 3 else rows.mask[None]


def _writer(output: str, prediction: Segmentation, folder: Path, name: str) -> AbstractContextManager[_Writer]:
    """Return what writes one output of one scene."""
    classes, size = prediction.classes, prediction.size
    georeference = prediction.raster.georeference
    bands = {"probabilities": classes.names, "uncertainty": ("standard deviation",)}.get(output)
    if output == "masks":
        bands = classes.names if classes.multilabel else ("class",)
    assert bands is not None
    folder.mkdir(exist_ok=True)
    if georeference is not None:
        colours = classes.colours if output == "masks" and not classes.multilabel else ()
        dtype, nodata = ("uint8", float(IGNORE)) if output == "masks" else ("float32", float("nan"))
        return GeoTiffWriter(folder / f"{name}.tif", size, dtype, bands, georeference, nodata, colours)
    if output != "masks":
        return _npy(folder / f"{name}.npy", (len(bands), *size))
    if not classes.multilabel:
        return _pngs([folder / f"{name}.png"], size, [classes.colours])
    folders = [folder / f"{i:02d}-{_UNFIT.sub('_', label)}" for i, label in enumerate(classes.names)]
    for each in folders:
        each.mkdir(exist_ok=True)
    palettes = [((0, 0, 0), colour) for colour in classes.colours]
    return _pngs([each / f"{name}.png" for each in folders], size, palettes)


class _Npy:
    def __init__(self, file: IO[bytes], shape: tuple[int, int, int]):
        self.file, self.shape, self.top = file, shape, 0
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self.start = file.tell()

    def append(self, rows: Array) -> None:
        # written, not mapped into memory, where its pages would count as the program's
        for i, plane in enumerate(rows):
            self.file.seek(self.start + 4 * self.shape[2] * (i * self.shape[1] + self.top))
            self.file.write(plane.astype("<f4").tobytes())
        self.top += rows.shape[1]


@contextmanager
def _npy(path: Path, shape: tuple[int, int, int]) -> Iterator[_Npy]:
    with atomic_write(path) as file:
        yield _Npy(file, shape)


class _Png:
    """A PNG with a palette, compressed as its rows come; Pillow would want all of them at once."""

    def __init__(self, file: IO[bytes], size: tuple[int, int], colours: Sequence[tuple[int, int, int]]):
        self.file, self.packer = file, zlib.compressobj()
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(colours)], palette[IGNORE] = colours, _UNKNOWN
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 3, 0, 0, 0))
        self._chunk(b"PLTE", palette.tobytes())

    def append(self, rows: Array) -> None:
        unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # the byte before each row names its filter: none
        self._chunk(b"IDAT", self.packer.compress(unfiltered.tobytes()))

    def finish(self) -> None:
        self._chunk(b"IDAT", self.packer.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, content: bytes) -> None:
        self.file.write(struct.pack(">I", len(content)) + kind + content)
        self.file.write(struct.pack(">I", zlib.crc32(kind + content)))


class _Pngs:
    """One PNG for each band."""

    def __init__(self, files: Sequence[_Png]):
        self.files = files

    def append(self, rows: Array) -> None:
        for file, plane in zip(self.files, rows, strict=True):
            file.append(plane)


@contextmanager
def _pngs(
    paths: Sequence[Path], size: tuple[int, int], palettes: Sequence[Sequence[tuple[int, int, int]]]
) -> Iterator[_Pngs]:
    with ExitStack() as stack:
        opened = [stack.enter_context(atomic_write(path)) for path in paths]
        files = [_Png(file, size, palette) for file, palette in zip(opened, palettes, strict=True)]
        yield _Pngs(files)
        for file in files:
            file.finish()


class _Table:
    """predictions.csv: a row for each scene."""

    def __init__(self, file: IO[str]):
        self.writer = csv.writer(file, lineterminator="\n")
        self.empty = True

    def add(self, prediction: Segmentation) -> None:
        summary = prediction.summary
        if self.empty:
            columns = [f"pixels of {name}" for name in summary.pixels]
            self.writer.writerow(["path", "height", "width", *columns, "pixels without data", "seam score"])
            self.empty = False
        score = "" if summary.seam_score is None else round(summary.seam_score, 6)
        row = [str(prediction.path), *prediction.size, *summary.pixels.values(), summary.unknown, score]
        self.writer.writerow(row)


def _free_name(path: Path, taken: set[str]) -> str:
    """Return a name for a scene's files; scenes of one name in several folders get a number."""
    stem = path.name if path.is_dir() else path.name[: len(path.name) - len(ending_of(path))]
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
