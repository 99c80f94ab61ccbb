"""Where GeoTIFFs lie on the ground: blocks that overlap nothing, and tiles that are too near to those of another split.

Places are metres on a sphere, from longitude and latitude: exact enough to tell near from far, and the same for tiles
of different projections.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.geo.geotiff import open_geotiff
from densenet_suite.installed import is_installed

Array = np.ndarray[Any, Any]

_METRES = 111_320.0  # of a degree of latitude
_TIFFS = (".tif", ".tiff")
_BLOCK_TILES = 4  # sides of the largest tile that a block has by default


def read_footprints(paths: Sequence[Path]) -> Array:
    """Return the bounds of georeferenced rasters [n 4]: west, south, east, north, in degrees.

    Raises:
        DataError: one has no place on the ground.
        MissingExtraError: rasterio is not installed.
    """
    if not is_installed("rasterio"):
        raise MissingExtraError("dividing by blocks on the ground", "geo")
    return np.array([_bounds(path) for path in paths], np.float64)


def default_block(bounds: Array) -> float:
    """Return a block's side in metres: four times that of the largest tile."""
    return float(_BLOCK_TILES * _sides(bounds).max())


def blocks(bounds: Array, side: float) -> list[tuple[int, int]]:
    """Return the block of each tile, by its centre: rows of blocks follow the parallels."""
    west, south, east, north = bounds.T
    rows = np.floor((south + north) / 2 * _METRES / side).astype(int)
    parallel = np.cos(np.deg2rad((rows + 0.5) * side / _METRES))
    columns = np.floor((west + east) / 2 * _METRES * parallel / side).astype(int)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def too_near(bounds: Array, splits: Sequence[str], order: Sequence[str], buffer: float) -> list[int]:
    """Return the tiles to put aside, by number: those nearer to a tile of an earlier split than the buffer.

    Args:
        bounds: of the tiles, from `read_footprints`.
        splits: of each.
        order: the splits, the one that keeps its tiles first.
        buffer: metres; 0 puts aside those that overlap.
    """
    rank = np.array([order.index(split) for split in splits])
    aside = np.zeros(len(rank), bool)
    for place in range(1, len(order)):
        kept = bounds[(rank < place) & ~aside]
        for i in np.flatnonzero(rank == place):
            aside[i] = bool((_gaps(bounds[i], kept) < buffer + (1e-6 if buffer else -1e-2)).any())
    return np.flatnonzero(aside).tolist()


def _gaps(one: Array, others: Array) -> Array:
    """Return the metres between a tile and others; negative where they overlap, by how far."""
    parallel = math.cos(math.radians(float(one[1] + one[3]) / 2))
    across = np.maximum(one[0] - others[:, 2], others[:, 0] - one[2]) * _METRES * parallel
    along = np.maximum(one[1] - others[:, 3], others[:, 1] - one[3]) * _METRES
    apart = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
    return np.asarray(np.where((across < 0) & (along < 0), np.maximum(across, along), apart))


def _sides(bounds: Array) -> Array:
    west, south, east, north = bounds.T
    parallel = np.cos(np.deg2rad((south + north) / 2))
    return np.maximum((east - west) * parallel, north - south) * _METRES


def _bounds(path: Path) -> tuple[float, ...]:
    from rasterio.warp import transform_bounds

    if path.suffix.lower() in _TIFFS:
        with open_geotiff(path) as dataset:
            if dataset.crs is not None and not dataset.transform.is_identity:
                return tuple(transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds))
    raise DataError(
        "image does not say where on the ground it lies",
        where=str(path),
        hint="blocks are of georeferenced tiles: divide others with --by scene or --by group",
    )
