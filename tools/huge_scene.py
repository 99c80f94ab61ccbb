"""Segment a scene that does not fit into memory, and print how much of it that took.

    python tools/huge_scene.py --height 20000 --width 20000

Writes a synthetic GeoTIFF by windows, segments it with a small network of random weights, row by row into a mask and an
overlay, checks size and place of the mask, and prints the largest resident memory of the process. For twice the height
it is the same: run it once for each.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

from densenet_suite.segmentation.build import create_segmenter
from densenet_suite.segmentation.prediction import SegmentationPredictor
from densenet_suite.segmentation.prediction_files import OUTPUTS, save_segmentations

PLACE = rasterio.Affine(0.5, 0, 593_000, 0, -0.5, 5_747_000)
BLOCK = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--outputs", nargs="*", choices=OUTPUTS, default=["masks", "overlays"])
    parser.add_argument("--folder", type=Path, help="where the files go and stay; a temporary folder otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, arguments.height, arguments.width)
        torch.manual_seed(0)
        model = create_segmenter(
            "unet", arguments.classes, backbone="efficientnet(width=0.25, depth=0.25)", channels=(32, 16, 16, 8, 8)
        )
        predictor = SegmentationPredictor(model, (arguments.tile, arguments.tile), arguments.overlap, batch=1)
        before, started = peak_memory(), time.perf_counter()
        (found,) = save_segmentations(predictor([scene]), Path(folder) / "out", arguments.outputs)
        minutes = (time.perf_counter() - started) / 60
        if "masks" in arguments.outputs:
            check_place(scene, Path(folder) / "out" / "masks" / "scene.tif")
    print(f"{arguments.height} x {arguments.width} pixels, {arguments.classes} classes, tiles of {arguments.tile}")
    print(f"pixels of each class {list(found.summary.pixels.values())}, seam score {found.summary.seam_score:.4f}")
    print(f"{minutes:.1f} minutes; peak resident memory {peak_memory():.0f} MB, {before:.0f} MB before the scene")


def write_scene(path: Path, height: int, width: int) -> None:
    """Write fields of random colours with noise on them, a row of blocks at a time."""
    random = np.random.default_rng(0)
    options = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "lzw", "bigtiff": "if_safer"}
    place = {"crs": rasterio.CRS.from_epsg(32631), "transform": PLACE}
    with (
        rasterio.Env(GDAL_CACHEMAX=64 * 2**20),
        rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", **options, **place
        ) as file,
    ):
        for top in range(0, height, BLOCK):
            rows = min(BLOCK, height - top)
            fields = random.integers(30, 226, (3, 1, -(-width // 100)), dtype=np.uint8).repeat(100, 2)[..., :width]
            noise = random.integers(0, 30, (3, rows, width), dtype=np.uint8)
            file.write(fields + noise, window=((top, top + rows), (0, width)))


def check_place(scene: Path, mask: Path) -> None:
    """Compare size and place on the ground."""
    with rasterio.open(scene) as before, rasterio.open(mask) as after:
        assert (before.crs, before.transform, before.shape) == (after.crs, after.transform, after.shape)


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # Linux counts kB


if __name__ == "__main__":
    main()
