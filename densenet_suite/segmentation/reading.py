"""Splits of labelled scenes read from files, and checked before training; masks are read again when they are needed."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.geo.geojson_rasters import GeoJsonFiles
from densenet_suite.headers import read_headers
from densenet_suite.rasters import read_raster
from densenet_suite.segmentation.coco_masks import read_coco_masks
from densenet_suite.segmentation.datasets import LabelledScene, MaskSource, SegmentationSet, note_absent_classes
from densenet_suite.segmentation.geojson_masks import read_geojson_masks
from densenet_suite.segmentation.layout import CocoFile, SplitFiles
from densenet_suite.segmentation.masks import FileMask, MaskCodec
from densenet_suite.segmentation.pairing import PairedFiles
from densenet_suite.segmentation.scene_files import read_scene_header
from densenet_suite.segmentation.structures import IGNORE, MaskClasses
from densenet_suite.segmentation.volume_pairs import cut_volumes

Array = np.ndarray[Any, Any]
_READERS = 8


def read_segmentation(
    name: str, files: SplitFiles, codec: MaskCodec, findings: Findings | None = None
) -> SegmentationSet:
    """Read a split: the header of every image and every pixel of every mask, in threads.

    What a run would suffer from stops it, all kinds at once: an image without mask, a mask of another size than its
    image, a value that stands for no class, images of different depths or bands. What it can live with is counted in
    `findings`: masks without image, pixels that took the nearest colour, EXIF orientations that turn a picture, and, of
    the training split, classes without a pixel.

    Args:
        name: of the split.
        files: from `find_split` or `name_split`.
        codec: what the values of the masks mean, from `find_codec`, which every split and the model share.
        findings: takes what is found; None for one of its own, at whose errors reading stops.

    Raises:
        DataError: there is nothing to read, or there are faults that would make a run wrong.
    """
    source = source_of(files)
    findings = findings or Findings(str(source))
    if isinstance(files, CocoFile):
        pairs: list[tuple[Path, MaskSource]] = list(read_coco_masks(files, codec.classes, findings))
    elif isinstance(files, GeoJsonFiles):
        pairs = list(read_geojson_masks(files, codec.classes, findings))
    else:
        _note_unpaired(files, findings)
        order = [files.layers.index(name) for name in codec.classes.names] if files.layers else [0]
        cut = cut_volumes(files.pairs, findings)
        pairs = [(pair.image, FileMask(codec, tuple(pair.masks[i] for i in order))) for pair in cut]
    counted = _check_masks(_read_headers(pairs, findings), codec.classes, findings)
    scenes = [scene for scene, _, _ in counted]
    if not pairs and all(finding.severity != "error" for finding in findings):
        findings.error("no-images", f"the {name} split has no image with a mask")
    _check_alike(scenes, findings)
    findings.raise_errors()
    shape = (len(scenes), len(codec.classes))
    found = SegmentationSet(
        name=name,
        source=source,
        classes=codec.classes,
        scenes=tuple(scenes),
        findings=findings,
        pixel_counts=np.array([pixels for _, pixels, _ in counted], np.int64).reshape(shape),
        known_counts=np.array([known for _, _, known in counted], np.int64).reshape(shape),
    )
    if name == "train":
        note_absent_classes(found, range(len(found.classes)))
    return found


def source_of(files: SplitFiles) -> Path:
    """Return the folder, table or file that says what belongs together."""
    if isinstance(files, CocoFile):
        return files.annotations
    return files.labels if isinstance(files, GeoJsonFiles) else files.where


def read_scene(scene: LabelledScene, bands: int | None = None) -> tuple[Array, Array]:
    """Return the pixels [h w c] of a scene as the file has them, and its mask, uint8 [h w] or [k h w].

    Pixels that the image declares to be no data are 255 in the mask.

    Args:
        scene: from a `SegmentationSet`.
        bands: 3 to repeat grey images, 1 to turn colours to grey; None for what the file has.

    Raises:
        DataError: a file has changed since the split was read.
    """
    image, nodata, record = read_raster(scene.path, bands)
    if (record.height, record.width) != (scene.height, scene.width):
        raise DataError("the picture has another size than when training began", where=str(scene.path))
    mask = scene.mask.decode().mask
    if mask.shape[-2:] != (scene.height, scene.width):
        raise DataError("the mask has another size than when training began", where=scene.mask.place)
    if nodata is not None and nodata.any():
        mask = np.where(nodata, np.uint8(IGNORE), mask)
    return image, mask


def _note_unpaired(files: PairedFiles, findings: Findings) -> None:
    if files.unlabelled:
        findings.error("mask-missing", files.missing(), files.hint)
    for path in files.unused:
        findings.warning("mask-without-image", f"mask {path.name} belongs to no image")


def _read_headers(pairs: Iterable[tuple[Path, MaskSource]], findings: Findings) -> list[LabelledScene]:
    """Return the scenes whose images can be read."""
    pairs = list(pairs)
    records = read_headers([path for path, _ in pairs], read_scene_header, findings)
    scenes = []
    for (path, mask), record in zip(pairs, records, strict=True):
        if record is None:
            continue
        if record.orientation != 1:
            findings.warning(
                "image-turned",
                f"image {path.name} is turned by its EXIF orientation {record.orientation}; "
                "its mask must be that of the upright picture",
            )
        scenes.append(LabelledScene(path, record.height, record.width, record.bands, record.dtype, mask))
    return scenes


@dataclass(frozen=True)
class _Checked:
    """What is left of a mask once it has been looked at: its size, its counts, or what is wrong with it."""

    size: tuple[int, int] = (0, 0)
    pixels: Array | None = None
    known: Array | None = None
    nearest: int = 0
    fault: DataError | None = None


def _check_masks(
    scenes: Sequence[LabelledScene], classes: MaskClasses, findings: Findings
) -> list[tuple[LabelledScene, Array, Array]]:
    """Return every scene whose mask is sound, its pixels of each class, and those known for each."""

    def check(scene: LabelledScene) -> _Checked:
        try:
            found = scene.mask.decode()
        except DataError as error:
            return _Checked(fault=error)
        height, width = found.mask.shape[-2:]
        pixels, known = count_classes(found.mask, classes)
        return _Checked((height, width), pixels, known, found.nearest)

    counts = []
    with ThreadPoolExecutor(_READERS) as pool:
        for scene, checked in zip(scenes, pool.map(check, scenes), strict=True):
            if checked.fault is not None:
                findings.record(checked.fault, "mask-unusable")
            elif checked.size != (scene.height, scene.width):
                _note_size(scene, checked.size, findings)
            else:
                assert checked.pixels is not None
                assert checked.known is not None
                counts.append((scene, checked.pixels, checked.known))
                if checked.nearest:
                    findings.warning(
                        "nearest-colour",
                        f"{checked.nearest} pixels of {scene.mask.place} took the class of the nearest colour",
                    )
    return counts


def _note_size(scene: LabelledScene, size: tuple[int, int], findings: Findings) -> None:
    turned = size == (scene.width, scene.height)
    findings.error(
        "mask-size",
        f"image {scene.path} is {scene.width}x{scene.height} (width x height), "
        f"its mask {scene.mask.place} is {size[1]}x{size[0]}",
        "the image's EXIF orientation turns it, and the mask must be that of the upright picture"
        if turned
        else "masks are never resized: export this one in the size of its image",
    )


def count_classes(mask: Array, classes: MaskClasses) -> tuple[Array, Array]:
    """Return the pixels [k] of each class, and the pixels [k] that are known to be of each class or not."""
    if classes.multilabel:
        layers = mask.reshape(len(classes), -1)
        return np.count_nonzero(layers == 1, 1), np.count_nonzero(layers != IGNORE, 1)
    counts = np.bincount(mask.reshape(-1), minlength=IGNORE + 1)
    return counts[: len(classes)], np.full(len(classes), mask.size - counts[IGNORE])


def _check_alike(scenes: Sequence[LabelledScene], findings: Findings) -> None:
    """Refuse images that no one network can take; grey among colours is no fault, as one becomes the other."""
    depths: dict[bool, str] = {}
    bands: dict[int, str] = {}
    for scene in scenes:
        depths.setdefault(scene.dtype == "uint8", f"{scene.path.name} is {scene.dtype}")
        bands.setdefault(3 if scene.bands == 1 else scene.bands, f"{scene.path.name} has {scene.bands}")
    if len(depths) > 1:
        findings.error("depths-differ", f"images differ in depth: {', '.join(depths.values())}", "convert them to one")
    if len(bands) > 1:
        findings.error("bands-differ", f"images differ in bands: {', '.join(bands.values())}", "convert them to one")
