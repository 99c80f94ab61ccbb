"""Boxes around polygons of GeoJSON files: each feature is an object, its box the bounds of its polygons."""

from pathlib import Path

from densenet_suite.detection.annotation_checks import ListedBox, ListedImage, assemble, check_headers
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings
from densenet_suite.geo.geojson import CLASS_PROPERTIES, Shape
from densenet_suite.geo.geojson_rasters import GeoJsonFiles, read_shapes

ONLY_CLASS = "object"


def read_geojson_boxes(
    name: str, files: GeoJsonFiles, classes: ClassTable | None = None, findings: Findings | None = None
) -> DetectionSet:
    """Read a split whose labels are GeoJSON polygons.

    Args:
        name: of the split.
        files: where it is.
        classes: those of the training split or the model, matched by name; None for the names that occur, sorted.
        findings: takes what is found; None for one of its own, at whose errors reading stops.

    Raises:
        DataError: files cannot be read, or hold faults that would make a run wrong: all kinds at once.
        MissingExtraError: rasterio is not installed.
    """
    findings = findings or Findings(str(files.labels))
    rasters = read_shapes(files, findings)
    named = any(shape.name is not None for raster in rasters for shape in raster.shapes)
    listed: list[tuple[ListedImage, list[ListedBox]]] = []
    for i, raster in enumerate(rasters, start=1):
        boxes = [_box(shape, named, raster.path, findings) for shape in raster.shapes]
        listed.append((ListedImage(i, raster.path, raster.path.name), boxes))
    check_headers([image for image, _ in listed], findings)
    findings.raise_errors()
    return assemble(name, files.labels, listed, classes, None, findings)


def _box(shape: Shape, named: bool, path: Path, findings: Findings) -> ListedBox:
    if named and shape.name is None:
        known = ", ".join(CLASS_PROPERTIES)
        findings.error("class-missing", f"{shape.place} has none of the properties {known}, as others have")
    return ListedBox(shape.name or ONLY_CLASS, shape.bounds, f"{shape.place} on {path.name}")
