"""Real masks from end to end, through the command line and the shipped configs; and masks that are wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from densenet_suite import cli, predict, save_results, train

SMALL = [
    "train.epochs=1",
    "train.batch=2",
    "train.recalibrate=4",
    "data.crop=64",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "model.backbone=efficientnet(width=0.25, depth=0.25)",
]
CONFIGS = {
    "isbi-em": ("segment_membranes", {"train": 20, "val": 4}),
    "dsb2018-nuclei": ("segment_nuclei", {"train": 27, "val": 10}),
    "camvid": ("segment_street", {"train": 367, "val": 101}),
    "dubai-aerial": ("segment_landcover", {"train": 37, "val": 9}),
}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


def config(name: str) -> Path:
    return REPOSITORY / "configs" / f"{name}.yaml"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_set_is_trained_on_evaluated_and_predicted(data_folder, tmp_path: Path, capsys, name: str) -> None:
    recipe, images = CONFIGS[name]
    root = data_folder(name)
    assert run("train", config(recipe), f"data.root={root}", f"output={tmp_path}", "name=masks", *SMALL) == 0
    folder = tmp_path / "masks-001"
    report = json.loads((folder / "data_report.json").read_text())
    assert {split["split"]: split["images"] for split in report["splits"]} == images
    capsys.readouterr()
    assert run("evaluate", folder, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert 0 <= scores["mIoU"] <= 1
    source = min((root / "images" / "val").iterdir())
    assert run("predict", folder, source, "--out", tmp_path / "found") == 0
    with Image.open(source) as picture, Image.open(tmp_path / "found" / "masks" / f"{source.stem}.png") as mask:
        assert mask.size == picture.size


# masks that are wrong: what the manifest of bad-inputs asks for

STREET = ["data.train=null", "data.val=null", "data.holdout=0", "data.scale=1.0", "data.crops_per_image=4", *SMALL]


@pytest.mark.parametrize(
    ("case", "code", "said"),
    [
        ("ok", 0, ["run:"]),
        ("size_mismatch", 3, ["frame.jpg is", "its mask", "frame.png is", "masks are never resized"]),
        ("out_of_range_id", 3, ["57", "frame.png", "pixel"]),
        ("rgb_mask", 3, ["frame.png", "colour"]),
        ("missing_mask", 3, ["no mask", "frame.jpg"]),
    ],
)
def test_a_faulty_mask_stops_a_run_before_it_begins(
    data_folder, tmp_path: Path, capsys, case: str, code: int, said: list[str]
) -> None:
    root = data_folder("bad-inputs") / "seg" / case
    assert run("train", config("segment_street"), f"data.root={root}", f"output={tmp_path}", *STREET) == code
    printed = capsys.readouterr()
    for part in said:
        assert part in printed.out + printed.err
    assert ("epoch" in printed.out + printed.err) == (code == 0)


# rasters


def raster(path: Path, pixels: np.ndarray, crs: str = "EPSG:32631") -> Path:
    import rasterio

    bands, height, width = pixels.shape
    place = rasterio.Affine(10, 0, 500_000, 0, -10, 4_600_000)
    options = {"crs": crs, "transform": place, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=bands, **options) as file:
        file.write(pixels)
    return path


def assert_same_place(result: Path, source: Path) -> None:
    import rasterio

    with rasterio.open(result) as found, rasterio.open(source) as given:
        assert (found.crs, found.transform, found.shape) == (given.crs, given.transform, given.shape)


@pytest.fixture(scope="module")
def thirteen_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 13-band rasters of 16 bits, where one band shows the fields."""
    root = tmp_path_factory.mktemp("bands")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for i in range(count):
            field = np.zeros((96, 120), bool)
            field[20 + 5 * i : 60, 30:80] = True
            pixels = rng.normal(1500, 200, (13, *field.shape)) + 2000 * field * (np.arange(13) == 7)[:, None, None]
            raster(root / "images" / split / f"{i}.tif", pixels.clip(0, 65535).astype(np.uint16))
            Image.fromarray(field.astype(np.uint8)).save(root / "masks" / split / f"{i}.png")
    return root


def test_thirteen_bands_are_learned_and_predicted_where_they_lie(thirteen_bands: Path, tmp_path: Path) -> None:
    schedule = ["train.epochs=25", "train.batch=4", "train.recalibrate=8", "data.crops_per_image=2", "data.crop=96"]
    schedule.append("augment.scale=[1, 1]")  # resampled noise is smoother than what is evaluated
    network = ["model.backbone=efficientnet(width=0.25, depth=0.25)", "model.drop_path=0.0", "train.ema=0.9"]
    place = [f"data.root={thirteen_bands}", f"output={tmp_path}", "trainer.check_val_every_n_epoch=25"]
    run = train(config("segment_multiband"), [*place, *schedule, *network, "train.optimizer.lr=0.02"])
    assert run.summary["best_score"] > 0.8
    source = thirteen_bands / "images" / "val"
    for found in save_results(run.dir, predict(run.dir, source, tile=64, overlap=16), tmp_path / "out"):
        assert_same_place(tmp_path / "out" / "masks" / f"{found.path.stem}.tif", found.path)


@pytest.mark.parametrize("name", ["atlanta_pan_uint16", "nebraska_3band_int16"])
def test_a_real_raster_is_trained_on_and_predicted_where_it_lies(data_folder, tmp_path: Path, name: str) -> None:
    samples = data_folder("geotiff-samples")
    for kind, ending in (("images", "tif"), ("masks", "png")):
        (tmp_path / "data" / kind).mkdir(parents=True)
        shutil.copy(samples / kind / f"{name}.{ending}", tmp_path / "data" / kind)
    place = [f"data.root={tmp_path / 'data'}", f"output={tmp_path}", "data.holdout=0", "data.classes=null"]
    run = train(config("segment_multiband"), [*place, *SMALL])
    source = tmp_path / "data" / "images" / f"{name}.tif"
    (found,) = save_results(run.dir, predict(run.dir, source, tile=256), tmp_path / "out")
    assert found.summary.seam_score is not None
    assert_same_place(tmp_path / "out" / "masks" / f"{name}.tif", source)


def test_complex_numbers_are_refused(data_folder, trained_segmenter_run, capsys, tmp_path: Path) -> None:
    source = data_folder("geotiff-samples") / "images" / "rotterdam_sar_complex64.tif"
    assert run("predict", trained_segmenter_run.dir, source, "--out", tmp_path / "out") == 3
    assert "complex" in capsys.readouterr().err
