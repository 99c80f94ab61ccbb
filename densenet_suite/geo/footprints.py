"""Where GeoTIFFs lie on the ground: blocks that overlap nothing, and tiles that are too near to those of another split.

A footprint is the four corners of a raster [4 2], in their order around it, as longitude and latitude in degrees.
Distances are metres on a sphere, between footprints with straight edges: exact enough to tell near from far, and the
same for tiles of different projections.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.geo.geotiff import Georeference, open_geotiff
from densenet_suite.installed import is_installed

Array = np.ndarray[Any, Any]

_METRES = 111_320.0  # of a degree of latitude
_TIFFS = (".tif", ".tiff")
_BLOCK_TILES = 4  # sides of the largest tile that a block has by default
_TOUCH = 1e-3  # of its shorter side, that a tile may overlap another by and only touch it


def footprint(place: Georeference | None, size: tuple[int, int]) -> Array | None:
    """Return the footprint of a raster of (height, width); None where it does not say where on the ground it lies."""
    if place is None or place.crs is None or place.points or place.transform.is_identity:
        return None
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError
    from rasterio.warp import transform

    a, b, c, d, e, f = place.transform[:6]
    columns, rows = np.array([0, size[1], size[1], 0]), np.array([0, 0, size[0], size[0]])
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    try:
        corners = np.array(transform(place.crs, "EPSG:4326", x, y), np.float64).T
    except (RasterioError, CRSError, CPLE_BaseError):  # coordinates of their own, such as those of a building site
        return None
    corners[:, 0] = corners[0, 0] + _turned(corners[:, 0] - corners[0, 0])  # where it crosses the 180th meridian
    return corners if np.isfinite(corners).all() else None


def read_footprints(paths: Sequence[Path]) -> Array:
    """Return the footprints of georeferenced rasters [n 4 2].

    Raises:
        DataError: one has no place on the ground.
        MissingExtraError: rasterio is not installed.
    """
    if not is_installed("rasterio"):
        raise MissingExtraError("dividing by blocks on the ground", "geo")
    return np.array([_read(path) for path in paths])


def default_block(footprints: Array) -> float:
    """Return a block's side in metres: four times that of the largest tile."""
    return float(_BLOCK_TILES * max(_sides(each).max() for each in footprints))


def blocks(footprints: Array, side: float) -> list[tuple[int, int]]:
    """Return the block of each tile, by its centre: rows of blocks follow the parallels."""
    longitude, latitude = footprints.mean(1).T
    rows = np.floor(latitude * _METRES / side).astype(int)
    parallel = np.cos(np.deg2rad((rows + 0.5) * side / _METRES))
    columns = np.floor(longitude * _METRES * parallel / side).astype(int)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def too_near(footprints: Array, splits: Sequence[str], order: Sequence[str], buffer: float) -> list[int]:
    """Return the tiles to put aside, by number: those nearer to a tile of an earlier split than the buffer.

    Args:
        footprints: of the tiles, from `read_footprints`.
        splits: of each.
        order: the splits, the one that keeps its tiles first.
        buffer: metres; 0 puts aside those that overlap.
    """
    rank = np.array([order.index(split) for split in splits])
    aside = np.zeros(len(rank), bool)
    for place in range(1, len(order)):
        kept = footprints[(rank < place) & ~aside]
        for i in np.flatnonzero(rank == place):
            nearest = gaps(footprints[i], kept, buffer).min(initial=np.inf)
            aside[i] = nearest < buffer or nearest < -_touching(footprints[i])
    return np.flatnonzero(aside).tolist()


def overlaps(one: Array, others: Array) -> Array:
    """Return by how many metres a footprint reaches into each of others [n 4 2]; 0 where they touch at most."""
    depth = -gaps(one, others)
    return np.where(depth > _touching(one), depth, 0.0)


def gaps(one: Array, others: Array, within: float = 0.0) -> Array:
    """Return the metres between a footprint and each of others [n 4 2]; negative where they overlap, by how far.

    Distances beyond `within` may be given as less, though not as less than that.
    """
    here, there = _plane(one[None], one), _plane(others, one)
    centre, centres = here.mean(1), there.mean(1)
    reach = np.hypot(*(here - centre[:, None]).T).max()
    reaches = np.linalg.norm(there - centres[:, None], axis=2).max(1)
    found = np.hypot(*(centres - centre).T) - reach - reaches
    near = np.flatnonzero(found <= within)
    if len(near):
        found[near] = _quadrilateral_gaps(np.repeat(here, len(near), 0), there[near])
    return np.asarray(found)


def _quadrilateral_gaps(a: Array, b: Array) -> Array:
    """Return the distance of each pair of convex quadrilaterals [n 4 2], negative where they overlap, by how far.

    They overlap unless one of their edges parts them (the separating axis theorem); where one does, a corner of the one
    is nearest to an edge of the other.
    """
    apart = np.maximum(_apart(a, b), _apart(b, a))
    distance = np.minimum(_corner_to_edge(a, b), _corner_to_edge(b, a))
    return np.where(apart < 0, apart, distance)


def _apart(a: Array, b: Array) -> Array:
    """Return how far [n] the quadrilaterals b lie beyond the edge of a that parts them best; negative where none."""
    edges = np.roll(a, -1, axis=1) - a
    normals = np.stack([edges[..., 1], -edges[..., 0]], -1) / np.maximum(np.linalg.norm(edges, axis=2), 1e-9)[..., None]
    mine, theirs = normals @ a.transpose(0, 2, 1), normals @ b.transpose(0, 2, 1)  # [n edges corners]
    return np.asarray(np.maximum(theirs.min(2) - mine.max(2), mine.min(2) - theirs.max(2)).max(1))


def _corner_to_edge(a: Array, b: Array) -> Array:
    """Return the least distance [n] of a corner of a from an edge of b."""
    edges = (np.roll(b, -1, axis=1) - b)[:, None]
    ways = a[:, :, None] - b[:, None]  # [n corners edges 2]
    along = (ways * edges).sum(-1) / np.maximum((edges * edges).sum(-1), 1e-18)
    apart = ways - along.clip(0, 1)[..., None] * edges
    return np.asarray(np.linalg.norm(apart, axis=-1).min((1, 2)))


def _plane(footprints: Array, around: Array) -> Array:
    """Return footprints [n 4 2] in metres east and north of the middle of one."""
    longitude, latitude = around.mean(0)
    way = footprints - (longitude, latitude)
    way[..., 0] += (_turned(way[:, 0, 0]) - way[:, 0, 0])[:, None]
    return np.asarray(way * _METRES * (np.cos(np.deg2rad(latitude)), 1.0))


def _turned(degrees: Array) -> Array:
    """Return the same angles between -180 and 180."""
    return np.asarray((degrees + 180) % 360 - 180)


def _sides(one: Array) -> Array:
    corners = _plane(one[None], one)[0]
    return np.asarray(np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1))


def _touching(one: Array) -> float:
    """Return the overlap in metres that is none: edges are straight here, and a little curved on the ground."""
    return float(_TOUCH * _sides(one).min())


def _read(path: Path) -> Array:
    found = None
    if path.suffix.lower() in _TIFFS:
        with open_geotiff(path) as dataset:
            found = footprint(Georeference.of(dataset), dataset.shape)
    if found is None:
        raise DataError(
            "image does not say where on the ground it lies",
            where=str(path),
            hint="blocks are of georeferenced tiles: divide others with --by scene or --by group",
        )
    return found
