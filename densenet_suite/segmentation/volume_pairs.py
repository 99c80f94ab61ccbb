"""Volumes and their label volumes, cut into pairs of slices: each slice is an image with a mask of its own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.segmentation.pairing import Pair
from densenet_suite.volumes.cache import VOLUMES
from densenet_suite.volumes.scenes import is_volume, open_volume
from densenet_suite.volumes.voxels import Volume, differences, parse_slice, slice_path

_PLANES_DIFFER = "a network learns one view best: volumes of another plane could be a dataset of their own"


def cut_volumes(pairs: Sequence[Pair], findings: Findings) -> Iterator[Pair]:
    """Yield each slice of a volume in the place of it, and other pairs as they are.

    Masks are cut in the plane of their image, so that it does not matter in which order a file stores its voxels.
    """
    planes: dict[str, str] = {}
    packed = 0
    for pair in pairs:
        if not is_volume(pair.image) or parse_slice(pair.image) is not None:
            yield pair
            continue
        try:
            image = open_volume(pair.image)
            plane = image.grid.plane
            count = image.grid.slices(plane)
            if count == 1 and not any(is_volume(mask) for mask in pair.masks):
                yield pair
            elif _fit(image, pair.masks, findings):
                planes.setdefault(plane, pair.image.name)
                packed += image.cached_bytes + sum(open_volume(mask).cached_bytes for mask in pair.masks)
                for i in range(count):
                    yield Pair(slice_path(pair.image, plane, i), tuple(slice_path(m, plane, i) for m in pair.masks))
        except DataError as error:
            problem = error.problems[0]
            findings.error("volume-unusable", f"{problem.what}: {problem.where}", problem.hint)
    if len(planes) > 1:
        shown = ", ".join(f"{name} is cut in {plane} slices" for plane, name in planes.items())
        findings.warning("planes-differ", f"volumes were taken in different planes: {shown}", _PLANES_DIFFER)

    if packed > VOLUMES.limit:
        findings.warning(
            "volumes-packed",
            f"unpacked, the volumes have {packed / 1e9:.1f} GB, and each process keeps {VOLUMES.limit / 1e9:.1f} GB: "
            "others are unpacked again for every slice",
            "gunzip them: slices of a .nii are read without the others",
        )


def _fit(image: Volume, masks: Sequence[Path], findings: Findings) -> bool:
    """Say whether masks have the grid of their image, and note those that have not."""
    fit = True
    for path in masks:
        what = "it is a picture, and the volume has several slices"
        if is_volume(path):
            what = differences(image.grid, open_volume(path).grid, image.grid.plane) or ""
        if what:
            fit = False
            findings.error(
                "grid-differs",
                f"volume {image.path} and its labels {path} are no grid of the same voxels: {what}",
                "labels are never resampled: write them in the grid of their image",
            )
    return fit
