"""Scenes of any size through a segmenter: tiles in, finished rows of classes and probabilities out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from densenet_suite.errors import ConfigError
from densenet_suite.geometry import resize
from densenet_suite.preprocess import Normalization
from densenet_suite.rasters import Pixels
from densenet_suite.segmentation.model import Segmenter
from densenet_suite.segmentation.structures import IGNORE
from densenet_suite.tiles import TilePlan, Window, blend_rows

Array = np.ndarray[Any, Any]

TILE = (512, 512)
OVERLAP = 128


class Rows(NamedTuple):
    """Finished rows of a scene, from the full width.

    Attributes:
        top: number of the first row.
        mask: uint8 [h w], or [k h w] where classes may overlap; 255 where the file has no data.
        probabilities: float32 [k h w]; NaN where the file has no data.
        uncertainty: float32 [h w], the standard deviation between tiles; NaN where there is no data, or one tile only,
            which has nothing to disagree with.
    """

    top: int
    mask: Array
    probabilities: Array
    uncertainty: Array


def predict_image(
    model: Segmenter,
    pixels: Array,
    tile: tuple[int, int] = TILE,
    overlap: int = OVERLAP,
    scale: float = 1.0,
    device: torch.device | str = "cpu",
    batch: int = 4,
) -> Float[Tensor, "k h w"]:
    """Return the probabilities of an image [h w c] in memory, on the CPU; the model is used in the mode it is in.

    The other arguments are those of `SegmentationPredictor`.
    """

    def read(window: Window) -> Pixels:
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        return Pixels(pixels[rows, columns], None)

    size = (pixels.shape[0], pixels.shape[1])
    parts = segment_scene(model, read, size, tile, overlap, scale, device, batch)
    return torch.from_numpy(np.concatenate([rows.probabilities for rows in parts], axis=1))


def segment_scene(
    model: Segmenter,
    read: Callable[[Window], Pixels],
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: int,
    scale: float,
    device: torch.device | str,
    batch: int,
) -> Iterator[Rows]:
    """Segment what `read` reads, and yield its rows as soon as they are finished.

    Probabilities, not logits, are brought back to the pixels of the file and averaged over the tiles. Tiles without any
    data do not reach the network.

    Raises:
        ConfigError: as `plan_tiles`.
    """
    plan, seen = plan_tiles(model.stride, size, tile, overlap, scale)
    tiles = _Tiles(model, read, plan, seen, device)
    for band in blend_rows(plan, tiles.predict, batch):
        probabilities = band.probabilities
        mask = (probabilities >= 0.5 if model.classes.multilabel else probabilities.argmax(0)).to(torch.uint8)
        rows = Rows(band.top, mask.cpu().numpy(), probabilities.cpu().numpy(), band.disagreement.cpu().numpy())
        height = len(rows.uncertainty)
        missing = tiles.missing[band.top - tiles.top :][:height]
        rows.mask[..., missing] = IGNORE
        rows.probabilities[:, missing] = np.nan
        rows.uncertainty[missing | ~plan.overlaps(band.top, height).numpy()] = np.nan
        yield rows


def plan_tiles(
    stride: int, size: tuple[int, int], tile: tuple[int, int], overlap: int, scale: float
) -> tuple[TilePlan, tuple[int, int]]:
    """Return where tiles lie, in pixels of the file, and the (height, width) that the network sees each in.

    Raises:
        ConfigError: the tile is not a multiple of the model's stride, or the overlap does not fit it.
    """
    for side in tile:
        if side % stride or side <= 0:
            raise ConfigError(
                f"tile side {side} is not a multiple of the model's stride {stride}",
                hint=f"take {max(1, round(side / stride)) * stride}",
            )
    height, width = (max(1, round(side / scale)) for side in tile)
    plan = TilePlan.cover(size, (height, width), round(overlap / scale), max(1, round(stride / scale)))
    whole = [max(1, round(side * scale)) for side in plan.tile]
    seen = [tile[i] if plan.tile[i] == (height, width)[i] else whole[i] for i in range(2)]
    return plan, (seen[0], seen[1])


class _Tiles:
    """The tiles of one scene on their way through the network.

    `missing` [h w] says for the row of tiles that was predicted last, which begins at `top`, where there is no data.
    """

    def __init__(
        self,
        model: Segmenter,
        read: Callable[[Window], Pixels],
        plan: TilePlan,
        seen: tuple[int, int],
        device: torch.device | str,
    ):
        self.model, self.read, self.plan, self.seen, self.device = model, read, plan, seen, device
        self.top = 0
        self.missing = np.zeros((plan.tile[0], plan.scene[1]), bool)

    @torch.inference_mode()
    def predict(self, windows: Sequence[Window]) -> Tensor:
        """Return probabilities [n k h w]; zero for tiles without any data."""
        images = {i: image for i, window in enumerate(windows) if (image := self._image(window)) is not None}
        found = torch.zeros(len(windows), len(self.model.classes), *self.plan.tile, device=self.device)
        if images:
            inputs = torch.from_numpy(np.stack(list(images.values()))).permute(0, 3, 1, 2)
            logits = self.model(inputs.to(self.device)).float()
            probabilities = logits.sigmoid() if self.model.classes.multilabel else logits.softmax(1)
            if self.seen != self.plan.tile:
                probabilities = F.interpolate(probabilities, self.plan.tile, mode="bilinear", antialias=True)
            found[list(images)] = probabilities
        return found

    def _image(self, window: Window) -> Array | None:
        """Return what the network sees of a window [h w c]: mirrored beyond the edge, the mean where data is missing.

        None stands for no data at all.
        """
        part = window.within(*self.plan.scene)
        self.top = window.top
        values, missing = self.read(part)
        self.missing[: part.height, part.left : part.left + part.width] = False if missing is None else missing
        if missing is not None:
            if missing.all():
                return None
            fill = _fill(self.model.preprocess.normalization, values.dtype)
            values = np.where(missing[..., None], fill, values)
        beyond = ((0, window.height - part.height), (0, window.width - part.width), (0, 0))
        return resize(np.pad(values, beyond, mode="reflect") if np.any(beyond) else values, *self.seen)


def _fill(normalization: Normalization, dtype: Any) -> Array:
    """Return the pixel of missing data: rounded only where the pixels are."""
    if dtype == np.uint8 or normalization.padding is not None:
        return np.array(normalization.fill, dtype)
    return np.array([mean * normalization.value_range for mean in normalization.mean], dtype)
