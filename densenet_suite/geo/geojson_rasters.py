"""Polygons of GeoJSON files on the rasters that they were drawn on, in pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.findings import Findings
from densenet_suite.geo.geojson import CLASS_PROPERTIES, Shape, ShapeFile, read_geojson
from densenet_suite.geo.geotiff import Georeference, open_geotiff
from densenet_suite.images import IMAGE_SUFFIXES
from densenet_suite.installed import is_installed
from densenet_suite.reader_warnings import without_reader_warnings

Array = np.ndarray[Any, Any]

_SUFFIXES = (".geojson",)


@dataclass(frozen=True)
class GeoJsonFiles:
    """A split whose labels are polygons: a file for all images, or a folder with one of the name of each."""

    labels: Path
    images: Path

    def __str__(self) -> str:
        return f"GeoJSON, as there is {self.labels}"


@dataclass(frozen=True)
class RasterShapes:
    """A raster and the shapes on it, in its pixels: (column, row), from the upper left corner."""

    path: Path
    size: tuple[int, int]
    shapes: tuple[Shape, ...]


def find_geojson(root: Path, split: str, alias: str) -> GeoJsonFiles | None:
    """Find a split of images/<alias>/ with labels/<alias>/*.geojson, labels/<alias>.geojson or <alias>.geojson.

    Without splits, images/ with labels/*.geojson is the training split.
    """
    images = root / "images" / alias
    places = (root / "labels" / alias, root / "labels" / f"{alias}.geojson", root / f"{alias}.geojson")
    for labels in places:
        if labels.is_file() or any(labels.glob("*.geojson")):
            return GeoJsonFiles(labels, images if images.is_dir() else root / "images")
    whole = root / "labels"
    if split == "train" and any(whole.glob("*.geojson")) and not any(path.is_dir() for path in whole.iterdir()):
        return GeoJsonFiles(whole, root / "images")
    return None


def read_shapes(files: GeoJsonFiles, findings: Findings) -> list[RasterShapes]:
    """Return all rasters of a split with what lies on them, at least in part.

    Args:
        files: the split.
        findings: takes what is wrong; features and rasters with errors are left out.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    if not is_installed("rasterio"):
        raise MissingExtraError(f"polygons on rasters ({files.labels})", "geo")
    paths = [path for path in sorted(files.images.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    paths = [path for path in paths if not path.name.startswith(".") and path.is_file()]
    if files.labels.is_dir():
        rasters = list(_one_by_one(files, paths, findings))
    else:
        rasters = _all_from_one(files.labels, paths, findings)
    _note_classless(rasters, findings)
    return rasters


def _one_by_one(files: GeoJsonFiles, paths: Sequence[Path], findings: Findings) -> Iterator[RasterShapes]:
    labels = {file.relative_to(files.labels).with_suffix(""): file for file in _found(files.labels)}
    for path in paths:
        file = labels.pop(path.relative_to(files.images).with_suffix(""), None)
        if file is None:
            findings.warning("image-without-labels", f"{path.name} has no GeoJSON file: nothing is on it")
            shapes = ShapeFile(path, None, ())
        else:
            try:
                shapes = read_geojson(file, findings)
            except DataError as error:
                findings.error("annotation-file", f"{error.problems[0].what}: {file}", error.problems[0].hint)
                continue
        placed = _placed(path, shapes, findings)
        if placed is not None:
            for shape in _outside(placed, shapes.shapes):
                findings.warning("polygon-outside", f"{shape.place} lies outside {path.name} and is dropped")
            yield placed
    for file in labels.values():
        findings.warning("labels-without-image", f"{file} is of no image and is not read")


def _all_from_one(file: Path, paths: Sequence[Path], findings: Findings) -> list[RasterShapes]:
    try:
        shapes = read_geojson(file, findings)
    except DataError as error:
        findings.error("annotation-file", f"{error.problems[0].what}: {file}", error.problems[0].hint)
        return []
    found = [placed for path in paths if (placed := _placed(path, shapes, findings)) is not None]
    used = {shape.place for placed in found for shape in placed.shapes}
    for shape in shapes.shapes:
        if shape.place not in used:
            findings.warning("polygon-outside", f"{shape.place} lies on no image and is dropped")
    return found


def _placed(path: Path, file: ShapeFile, findings: Findings) -> RasterShapes | None:
    """Return a raster and what lies on it."""
    try:
        with open_geotiff(path) as dataset:
            size, place = (dataset.height, dataset.width), Georeference.of(dataset)
        shapes = [to_pixels(shape, file.crs, place) for shape in file.shapes]
    except DataError as error:
        findings.error("image-unusable", f"{error.problems[0].what}: {path}", error.problems[0].hint)
        return None
    except ValueError:
        findings.error(
            "image-without-place", f"{path.name} does not say where on the ground it lies", "gdal_edit -a_srs"
        )
        return None
    if file.crs is None and file.shapes:
        findings.warning("crs-assumed", f"{file.path.name} is taken to be in the coordinates of {path.name}")
    inside = []
    for shape in shapes:
        x1, y1, x2, y2 = shape.bounds
        if x1 < size[1] and y1 < size[0] and x2 > 0 and y2 > 0:
            inside.append(shape)
            if x1 < -1 or y1 < -1 or x2 > size[1] + 1 or y2 > size[0] + 1:
                findings.warning("polygon-clipped", f"{shape.place} sticks out of {path.name} and is clipped")
    return RasterShapes(path, size, tuple(inside))


def burn(shapes: Sequence[tuple[int, Shape]], size: tuple[int, int]) -> Array:
    """Paint shapes into a mask, the later ones over the earlier.

    Args:
        shapes: the value of each, and the shape in pixels. A pixel is of a shape that its centre lies in.
        size: (height, width).

    Returns:
        uint8 [h w], 0 where there is no shape.
    """
    from rasterio.features import rasterize

    if not shapes:
        return np.zeros(size, np.uint8)
    painted = [
        ({"type": "MultiPolygon", "coordinates": [[r.tolist() for r in rings] for rings in shape.polygons]}, value)
        for value, shape in shapes
    ]
    with without_reader_warnings():  # which rasterio sets filters of its own against, in whatever thread it is called
        return np.asarray(rasterize(painted, size, fill=0, dtype="uint8", all_touched=False))


def to_pixels(shape: Shape, crs: Any, place: Georeference) -> Shape:
    """Return a shape in the pixels of a raster.

    Args:
        shape: in the coordinates of its file.
        crs: those of the file; None for those of the raster.
        place: of the raster.

    Raises:
        ValueError: the raster has no place on the ground.
    """
    from rasterio.warp import transform

    if place.points or place.transform.is_identity or (crs is not None and place.crs is None):
        raise ValueError("no place")
    a, b, c, d, e, f = (~place.transform)[:6]

    def moved(ring: Array) -> Array:
        xs, ys = ring.T
        if crs is not None and crs != place.crs:
            xs, ys = (np.array(each) for each in transform(crs, place.crs, xs, ys))
        return np.stack([a * xs + b * ys + c, d * xs + e * ys + f], 1)

    return Shape(shape.name, tuple(tuple(moved(ring) for ring in rings) for rings in shape.polygons), shape.place)


def _note_classless(rasters: Sequence[RasterShapes], findings: Findings) -> None:
    """Record features without a class where others have one."""
    shapes = [shape for raster in rasters for shape in raster.shapes]
    if any(shape.name is not None for shape in shapes):
        for shape in shapes:
            if shape.name is None:
                known = ", ".join(CLASS_PROPERTIES)
                findings.error("class-missing", f"{shape.place} has none of the properties {known}, as others have")


def _outside(placed: RasterShapes, shapes: Sequence[Shape]) -> list[Shape]:
    inside = {shape.place for shape in placed.shapes}
    return [shape for shape in shapes if shape.place not in inside]


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.name[0] != ".")
