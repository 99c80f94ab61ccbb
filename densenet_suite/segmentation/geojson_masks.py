"""Masks from polygons of GeoJSON files.

A pixel belongs to a polygon that its centre lies in, so that neighbours share no pixel; the smallest polygon on a pixel
counts, and where there is none it is `background`. Holes are holes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.geo.geojson import Shape
from densenet_suite.geo.geojson_rasters import GeoJsonFiles, burn, read_shapes
from densenet_suite.registry import did_you_mean
from densenet_suite.segmentation.masks import DecodedMask
from densenet_suite.segmentation.structures import MaskClasses

ONLY_CLASS = "foreground"


@dataclass(frozen=True)
class ShapeMask:
    """The mask of a raster: shapes in its pixels, with their classes, in the order in which they are painted."""

    labels: Path
    size: tuple[int, int]
    classes: MaskClasses
    shapes: tuple[tuple[int, Shape], ...]

    @property
    def place(self) -> str:
        """The file or folder of the labels, for messages."""
        return str(self.labels)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file or folder of the labels."""
        return (self.labels,)

    def decode(self) -> DecodedMask:
        """Return the mask, uint8 [h w] or [k h w]."""
        if not self.classes.multilabel:
            return DecodedMask(burn(self.shapes, self.size))
        layers = [[(1, shape) for label, shape in self.shapes if label == i] for i in range(len(self.classes))]
        return DecodedMask(np.stack([burn(layer, self.size) for layer in layers]))


def read_class_names(files: GeoJsonFiles) -> tuple[str, ...]:
    """Return the names of the classes of a split, sorted; `foreground` where features have none.

    Raises:
        DataError: there is no polygon, or a file cannot be read.
    """
    findings = Findings(str(files.labels))
    names = {_name(shape) for raster in read_shapes(files, findings) for shape in raster.shapes}
    findings.raise_errors()
    if not names:
        raise DataError("no polygon lies on an image, so that there are no classes", where=str(files.labels))
    return tuple(sorted(names))


def read_geojson_masks(
    files: GeoJsonFiles, classes: MaskClasses, findings: Findings
) -> Iterator[tuple[Path, ShapeMask]]:
    """Read the images of a split and their masks.

    Args:
        files: the split.
        classes: with which those of the features are matched by name.
        findings: takes what is wrong; images with faults are left out.
    """
    for raster in read_shapes(files, findings):
        shapes = []
        for shape in sorted(raster.shapes, key=lambda shape: -shape.area):
            if _name(shape) in classes.names:
                shapes.append((classes.names.index(_name(shape)), shape))
            else:
                hint = did_you_mean(_name(shape), classes.names) or f"the classes are {', '.join(classes.names[:8])}"
                findings.error("class-unknown", f"{shape.place} is of {_name(shape)!r}, which is no class", hint)
        yield raster.path, ShapeMask(files.labels, raster.size, classes, tuple(shapes))


def _name(shape: Shape) -> str:
    return ONLY_CLASS if shape.name is None else shape.name
