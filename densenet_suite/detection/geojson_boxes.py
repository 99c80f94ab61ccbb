"""Boxes around polygons of GeoJSON files: each feature is an object, its box the bounds of its polygons."""

from densenet_suite.detection.annotation_checks import ListedBox, ListedImage, assemble, check_headers
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings
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
    listed: list[tuple[ListedImage, list[ListedBox]]] = []
    for i, raster in enumerate(read_shapes(files, findings), start=1):
        boxes = [
            ListedBox(shape.name or ONLY_CLASS, shape.bounds, f"{shape.place} on {raster.path.name}")
            for shape in raster.shapes
        ]
        listed.append((ListedImage(i, raster.path, raster.path.name), boxes))
    check_headers([image for image, _ in listed], findings)
    findings.raise_errors()
    return assemble(name, files.labels, listed, classes, None, findings)
