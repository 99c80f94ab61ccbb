"""From image files of any size to a class for every pixel: what `predict` gives its user.

A volume is looked at slice by slice: each is a scene of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from densenet_suite.drawing import displayable, draw_mask
from densenet_suite.errors import DataError
from densenet_suite.image_opening import check_depth
from densenet_suite.rasters import Pixels, Raster, check_bands, open_raster, read_thumbnail, with_bands
from densenet_suite.segmentation.model import Segmenter
from densenet_suite.segmentation.scenes import OVERLAP, TILE, Rows, plan_tiles, segment_scene
from densenet_suite.segmentation.structures import IGNORE, MaskClasses
from densenet_suite.tiles import Window
from densenet_suite.volumes.scenes import slice_paths

Array = np.ndarray[Any, Any]

_SMALL, _LARGE = 480, 2048  # sides that drawings are brought to


class Summary(NamedTuple):
    """A scene in numbers.

    Attributes:
        pixels: how many each class has, by name.
        unknown: how many have no data.
        seam_score: mean uncertainty where tiles overlap, 0 is best; None where they do not.
    """

    pixels: dict[str, int]
    unknown: int
    seam_score: float | None


class Segmentation:
    """The classes of the pixels of one file, or of one slice of a volume, computed as they are asked for.

    `rows` runs the network each time and keeps nothing; `mask` and `probabilities` keep the whole scene in memory.

    Attributes:
        raster: the file.
        classes: what the numbers of the mask stand for.
    """

    def __init__(self, raster: Raster, classes: MaskClasses, run: Callable[[Raster], Iterator[Rows]]):
        self.raster = raster
        self.classes = classes
        self._run = run
        self._summary: Summary | None = None

    @property
    def path(self) -> Path:
        """The file's path, or the slice's; see `voxels`."""
        return self.raster.record.path

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return self.raster.record.height, self.raster.record.width

    def rows(self) -> Iterator[Rows]:
        """Run the network and yield finished rows, from the top.

        Raises:
            DataError: the file is damaged further down.
        """
        counts, unknown = np.zeros(len(self.classes), np.int64), 0
        disagreement, overlapping = 0.0, 0
        for rows in self._run(self.raster):
            counts += self._count(rows.mask)
            unknown += int((rows.mask.reshape(-1, *rows.uncertainty.shape)[0] == IGNORE).sum())
            judged = rows.uncertainty[np.isfinite(rows.uncertainty)]
            disagreement, overlapping = disagreement + float(judged.sum(dtype=np.float64)), overlapping + judged.size
            yield rows
        pixels = dict(zip(self.classes.names, counts.tolist(), strict=True))
        self._summary = Summary(pixels, unknown, disagreement / overlapping if overlapping else None)

    @cached_property
    def mask(self) -> Array:
        """uint8 [h w], or [k h w] where classes may overlap; 255 where the file has no data."""
        return np.concatenate([rows.mask for rows in self.rows()], axis=-2)

    @cached_property
    def probabilities(self) -> Array:
        """float32 [k h w]; NaN where the file has no data."""
        return np.concatenate([rows.probabilities for rows in self.rows()], axis=-2)

    @property
    def summary(self) -> Summary:
        """Pixels of each class, and the seam score; known once all rows have been through, and computed otherwise."""
        if self._summary is None:
            for _ in self.rows():
                pass
        assert self._summary is not None
        return self._summary

    def draw(self) -> Image.Image:
        """Return the picture in the colours of the classes, with a legend; a small one enlarged, a huge one reduced."""
        step = drawing_step(self.size)
        return draw_scene(self.raster, self.mask[..., ::step, ::step], self.classes)

    def _count(self, mask: Array) -> Array:
        if self.classes.multilabel:
            return (mask == 1).sum((1, 2), dtype=np.int64)
        return np.bincount(mask.reshape(-1), minlength=256)[: len(self.classes)].astype(np.int64)


class SegmentationPredictor:
    """Runs a segmenter over files.

    Args:
        model: the segmenter, best as `fusing.fuse` makes it; put into evaluation.
        tile: (height, width) of what the network sees at a time. A scene that fits goes through whole.
        overlap: pixels that tiles share with their neighbours, at least.
        scale: pixels of the network for each pixel of the file.
        device: where the network runs.
        batch: tiles at a time.

    Raises:
        ConfigError: the tile is not a multiple of the model's stride, or the overlap does not fit it.
    """

    def __init__(
        self,
        model: Segmenter,
        tile: tuple[int, int] = TILE,
        overlap: int = OVERLAP,
        scale: float = 1.0,
        device: torch.device | str = "cpu",
        batch: int = 4,
    ):
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        self.tile, self.overlap, self.scale = tile, overlap, scale
        self.device, self.batch = device, batch
        plan_tiles(model.stride, tile, tile, overlap, scale)  # refuses what does not fit

    def __call__(self, paths: Iterable[Path]) -> Iterator[Segmentation]:
        """Yield a segmentation for each file that can be read, as they come; the network runs when it is asked for.

        A volume yields one for each of its slices.

        Raises:
            DataError: at the end, where files could not be read; it names them all.
        """
        failed: list[DataError] = []
        for path in paths:
            try:
                parts = slice_paths(path)
                raster = open_raster(parts[0])
                self._check(raster)
            except DataError as error:
                failed.append(error)
                continue
            yield Segmentation(raster, self.model.classes, self._run)
            for part in parts[1:]:
                yield Segmentation(open_raster(part), self.model.classes, self._run)
        if failed:
            raise DataError([problem for error in failed for problem in error.problems])

    def _check(self, raster: Raster) -> None:
        normalization = self.model.preprocess.normalization
        check_bands(raster.record, len(normalization.mean))
        if normalization.value_range == 255:  # deeper pixels would all be white to this model
            check_depth(raster.record)

    def _run(self, raster: Raster) -> Iterator[Rows]:
        record, bands = raster.record, len(self.model.preprocess.normalization.mean)

        def read(window: Window) -> Pixels:
            values, missing = raster.read(window)
            return Pixels(with_bands(values, bands, record), missing)

        size = (record.height, record.width)
        with raster:
            yield from segment_scene(
                self.model, read, size, self.tile, self.overlap, self.scale, self.device, self.batch
            )


def drawing_step(size: tuple[int, int]) -> int:
    """Return which pixels a drawing of a scene takes: every n-th, so that it fits a screen."""
    return -(-max(size) // _LARGE)


def draw_scene(raster: Raster, mask: Array, classes: MaskClasses) -> Image.Image:
    """Draw a mask of every n-th pixel (`drawing_step`) on the scene."""
    record = raster.record
    with raster:
        picture = displayable(read_thumbnail(raster, drawing_step((record.height, record.width))))
    factor = max(1, _SMALL // max(picture.shape[:2]))
    picture, mask = (
        a.repeat(factor, axis).repeat(factor, axis + 1) for a, axis in ((picture, 0), (mask, mask.ndim - 2))
    )
    return Image.fromarray(draw_mask(picture, mask, classes.colours, classes.names))
