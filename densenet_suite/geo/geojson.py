"""Polygons of GeoJSON files.

Coordinates are longitudes and latitudes (WGS 84), as RFC 7946 has it, or of the `crs` that older files name. A file
that names none and has numbers beyond 180 cannot mean degrees: they are taken for those of its raster, and this is
counted. The class of a feature is its property `class`, `label` or `name`, the first that it has.

What is no polygon, or none with numbers, stops a run and is told with the number of its feature. Lines that cross
themselves, rings that are not closed and polygons outside all rasters are counted; an area that lines enclose twice is
outside (even-odd rule). Rings of more than 4,096 points are not searched for crossings.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings

Array = np.ndarray[Any, Any]
Rings = tuple[Array, ...]  # each [n 2], closed; the first is the outline, the others are holes

CLASS_PROPERTIES = ("class", "label", "name")
_WGS84 = "EPSG:4326"
_BYTES = 2**30
_SEARCHED = 4096  # points of a ring


@dataclass(frozen=True, eq=False)
class Shape:
    """A feature: its class, if it has one, its polygons, and where it stands, for messages."""

    name: str | None
    polygons: tuple[Rings, ...]
    place: str

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least and largest x and y, as (x1, y1, x2, y2)."""
        outlines = np.concatenate([rings[0] for rings in self.polygons])
        (x1, y1), (x2, y2) = outlines.min(0).tolist(), outlines.max(0).tolist()
        return x1, y1, x2, y2

    @property
    def area(self) -> float:
        """Of the outlines less that of the holes."""
        return sum(_area(rings[0]) - sum(map(_area, rings[1:])) for rings in self.polygons)


@dataclass(frozen=True)
class ShapeFile:
    """The features of a file; `crs` is None where it can only be that of the raster."""

    path: Path
    crs: Any
    shapes: tuple[Shape, ...]


def read_geojson(path: Path, findings: Findings) -> ShapeFile:
    """Read the polygons of a file.

    Args:
        path: of the file.
        findings: takes what is wrong with features, which are left out then.

    Raises:
        DataError: the file cannot be read, is no GeoJSON, or names coordinates that nobody knows.
    """
    content = _load(path)
    features = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(features, list):
        raise DataError("GeoJSON has no list of features", where=str(path))
    shapes = []
    for i, feature in enumerate(features):
        shape = _shape(feature, f"{path.name}: features[{i}]", findings)
        if shape is not None:
            shapes.append(shape)
    crs = _crs(content, path)
    largest = max((float(np.abs(ring).max()) for s in shapes for rings in s.polygons for ring in rings), default=0.0)
    if crs is None and largest <= 180:
        crs = _named_crs(_WGS84, path)
    return ShapeFile(path, crs, tuple(shapes))


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _BYTES:
            raise DataError(f"GeoJSON has {path.stat().st_size:,} bytes, the limit is {_BYTES:,}", where=str(path))
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"no valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"GeoJSON cannot be read: {type(error).__name__}", where=str(path)) from None
    if not isinstance(content, dict):
        raise DataError(
            "GeoJSON is no object", where=str(path), hint='{"type": "FeatureCollection", "features": [...]}'
        )
    return content


def _crs(content: Mapping[str, Any], path: Path) -> Any:
    """Return what the `crs` of GeoJSON before 2016 says; None where there is none."""
    given = content.get("crs")
    if given is None:
        return None
    properties = given.get("properties") if isinstance(given, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    if not isinstance(name, str):
        raise DataError("crs has no name", where=str(path), hint='"crs": {"type": "name", "properties": {"name": ...}}')
    return _named_crs(_WGS84 if name.upper().endswith("CRS84") else name, path)


def _named_crs(name: str, path: Path) -> Any:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(name)
    except CRSError:
        raise DataError(f"crs {name[:80]!r} is not known", where=str(path), hint="such as EPSG:32631") from None


def _shape(feature: Any, place: str, findings: Findings) -> Shape | None:
    geometry = feature.get("geometry") if isinstance(feature, dict) and feature.get("type") == "Feature" else feature
    if not isinstance(geometry, dict) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        kind = geometry.get("type") if isinstance(geometry, dict) else type(geometry).__name__
        findings.error("not-a-polygon", f"{place} is {str(kind)[:40]!r}, not a Polygon or MultiPolygon")
        return None
    given = geometry.get("coordinates")
    parts = given if geometry["type"] == "MultiPolygon" else [given]
    polygons = []
    for part in parts if isinstance(parts, list) else [None]:
        rings = [_ring(ring, place, findings) for ring in part] if isinstance(part, list) else []
        if not rings or any(ring is None for ring in rings):
            if not rings:
                findings.error("polygon-empty", f"{place} has no coordinates")
            return None
        polygons.append(tuple(ring for ring in rings if ring is not None))
    if not polygons:
        findings.error("polygon-empty", f"{place} has no coordinates")
        return None
    return Shape(_class_of(feature), tuple(polygons), place)


def _ring(given: Any, place: str, findings: Findings) -> Array | None:
    try:
        ring = np.array([[float(point[0]), float(point[1])] for point in given], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, IndexError, OverflowError):
        findings.error("polygon-numbers", f"{place} holds a point that is no pair of numbers")
        return None
    if not np.isfinite(ring).all():
        findings.error("polygon-numbers", f"{place} holds NaN or infinity")
        return None
    if len(ring) and not np.array_equal(ring[0], ring[-1]):
        findings.warning("ring-open", f"{place} has a ring that does not end where it begins; it is closed")
        ring = np.concatenate([ring, ring[:1]])
    if len(np.unique(ring, axis=0)) < 3:
        findings.error("polygon-points", f"{place} has a ring of fewer than three different points")
        return None
    if len(ring) <= _SEARCHED and crosses_itself(ring):
        findings.warning(
            "polygon-crosses", f"{place} has a line that crosses itself: what it encloses twice is outside"
        )
    return ring


def crosses_itself(ring: Array) -> bool:
    """Say whether sides of a closed ring [n 2], other than neighbours, cut through each other."""
    start, end = ring[:-1], ring[1:]

    def side(a: Array, b: Array, c: Array) -> Array:
        return np.sign(
            (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
        )

    for i in range(len(start) - 1):
        a, b, c, d = start[i], end[i], start[i + 1 :], end[i + 1 :]
        if ((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)).any():
            return True
    return False


def _class_of(feature: Mapping[str, Any]) -> str | None:
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return None
    for name in CLASS_PROPERTIES:
        value = properties.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None


def _area(ring: Array) -> float:
    x, y = (ring - ring[0]).T
    area = float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2
    return abs(area) if math.isfinite(area) else 0.0
