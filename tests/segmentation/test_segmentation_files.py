import csv
import tracemalloc

import numpy as np
import pytest
import rasterio
from PIL import Image

from densenet_suite.errors import ConfigError, DataError
from densenet_suite.image_opening import ImageRecord
from densenet_suite.rasters import Pixels, Raster, open_raster
from densenet_suite.segmentation.prediction import Segmentation
from densenet_suite.segmentation.prediction_files import OUTPUTS, save_segmentations
from densenet_suite.segmentation.scenes import Rows
from densenet_suite.segmentation.structures import MaskClasses

UTM = rasterio.CRS.from_epsg(32631)
PLACE = rasterio.Affine(0.5, 0, 593_000, 0, -0.5, 5_747_000)
CLASSES = MaskClasses(("ground", "water", "roof"), ((0, 0, 0), (0, 0, 255), (255, 0, 0)))
LAYERS = MaskClasses(("road/path", "tree"), ((200, 0, 0), (0, 200, 0)), multilabel=True)
SIZE = (90, 70)


def ramps(bands):
    return np.add.outer(np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1])), 10 * np.arange(bands))


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ramps(3).astype(np.uint8)).save(path)
    return path


def geotiff(path):
    options = {"crs": UTM, "transform": PLACE}
    with rasterio.open(path, "w", driver="GTiff", height=90, width=70, count=5, dtype="uint16", **options) as file:
        file.write(20 * ramps(5).transpose(2, 0, 1).astype(np.uint16))
    return path


def rows_of(classes, height=17, fails=False):
    """Rows of known classes, a few at a time; the first pixel is without data."""
    random = np.random.default_rng(1)

    def run(raster):
        for top in range(0, SIZE[0], height):
            size = (min(height, SIZE[0] - top), SIZE[1])
            probabilities = np.tile(random.random((len(classes), 1, 7), np.float32).repeat(10, 2), (1, size[0], 1))
            mask = (probabilities > 0.5 if classes.multilabel else probabilities.argmax(0)).astype(np.uint8)
            uncertainty = random.random(size, np.float32)
            if top == 0:
                mask[..., 0, 0], probabilities[:, 0, 0], uncertainty[0, 0] = 255, np.nan, np.nan
            elif fails:
                raise DataError("image file is damaged", where=str(raster.record.path))
            yield Rows(top, mask, probabilities, uncertainty)

    return run


class Fixed(Segmentation):
    """A segmentation that finds the same whenever it is asked."""

    def __init__(self, path, classes=CLASSES, fails=False):
        super().__init__(open_raster(path), classes, lambda raster: rows_of(classes, fails=fails)(raster))


def save(predictions, folder, *outputs):
    return list(save_segmentations(predictions, folder / "out", outputs))


def files(folder):
    return sorted(path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file())


def test_segmentations_pass_through(tmp_path):
    found = [Fixed(picture(tmp_path / f"{name}.png")) for name in "ab"]
    assert save(found, tmp_path) == found


def test_a_mask_is_a_png_of_numbers_with_the_colours_of_the_classes(tmp_path):
    found = Fixed(picture(tmp_path / "a.jpg"))
    save([found], tmp_path, "masks")
    with Image.open(tmp_path / "out" / "masks" / "a.png") as file:
        assert file.mode == "P"
        assert (np.asarray(file) == found.mask).all()
        palette = np.reshape(file.getpalette(), (-1, 3))
    assert (palette[:3] == CLASSES.colours).all()
    assert palette[255].tolist() == [128, 128, 128]


def test_overlapping_classes_are_a_folder_of_pngs_each(tmp_path):
    found = Fixed(picture(tmp_path / "a.jpg"), LAYERS)
    save([found], tmp_path, "masks")
    assert files(tmp_path) == ["masks/00-road_path/a.png", "masks/01-tree/a.png", "predictions.csv"]
    for i, folder in enumerate(("00-road_path", "01-tree")):
        with Image.open(tmp_path / "out" / "masks" / folder / "a.png") as file:
            assert (np.asarray(file) == found.mask[i]).all()
            assert tuple(file.getpalette()[3:6]) == LAYERS.colours[i]


@pytest.mark.parametrize("classes", [CLASSES, LAYERS], ids=["exclusive", "overlapping"])
def test_a_geotiff_becomes_geotiffs_of_its_place_and_size(tmp_path, classes):
    found = Fixed(geotiff(tmp_path / "a.tif"), classes)
    save([found], tmp_path, "masks", "probabilities", "uncertainty")
    for output in ("masks", "probabilities", "uncertainty"):
        with rasterio.open(tmp_path / "out" / output / "a.tif") as file:
            assert (file.crs, file.transform, file.shape) == (UTM, PLACE, SIZE)
            if output == "masks":
                assert (file.read() == np.reshape(found.mask, (-1, *SIZE))).all()
                assert file.nodata == 255
                assert file.descriptions == (classes.names if classes.multilabel else ("class",))
            if output == "probabilities":
                np.testing.assert_array_equal(file.read(), found.probabilities)
                assert file.descriptions == classes.names
                assert np.isnan(file.nodata)


def test_a_real_raster_keeps_its_place(tmp_path, data_folder):
    path = data_folder("geotiff-samples") / "images" / "nebraska_3band_int16.tif"

    def run(raster):
        yield Rows(0, np.ones((512, 512), np.uint8), np.zeros((3, 512, 512), np.float32), np.zeros((512, 512)))

    save([Segmentation(open_raster(path), CLASSES, run)], tmp_path, "masks", "overlays")
    with rasterio.open(path) as before, rasterio.open(tmp_path / "out" / "masks" / "nebraska_3band_int16.tif") as after:
        assert (after.crs, after.transform, after.shape) == (before.crs, before.transform, before.shape)
        assert after.colormap(1)[1] == (0, 0, 255, 255)


def test_numbers_of_a_picture_are_numpy_files(tmp_path):
    found = Fixed(picture(tmp_path / "a.png"))
    save([found], tmp_path, "probabilities", "uncertainty")
    probabilities = np.load(tmp_path / "out" / "probabilities" / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(probabilities, found.probabilities)
    uncertainty = np.load(tmp_path / "out" / "uncertainty" / "a.npy")
    np.testing.assert_array_equal(uncertainty[0], np.concatenate([rows.uncertainty for rows in found.rows()]))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_overlay_is_the_drawing(tmp_path, suffix):
    found = Fixed(picture(tmp_path / "a.png") if suffix == "png" else geotiff(tmp_path / "a.tif"))
    save([found], tmp_path, "overlays")
    with Image.open(tmp_path / "out" / "overlays" / "a.jpg") as file:
        assert np.abs(np.asarray(file).astype(int) - np.asarray(found.draw())).mean() < 4  # a JPEG


class Tall(Raster):
    """A scene that is larger than a screen."""

    def __init__(self, path, height=5000, width=30):
        self.record = ImageRecord(path, height, width, 3, "uint8", 1)

    def read(self, window):
        rows = np.arange(window.top, window.top + window.height) // 20
        return Pixels(np.tile(rows.astype(np.uint8)[:, None, None], (1, window.width, 3)), None)


def test_the_overlay_of_a_huge_scene_is_reduced(tmp_path):
    def run(raster):
        for top in range(0, 5000, 77):
            rows = np.arange(top, min(top + 77, 5000))
            mask = np.tile((rows[:, None] // 1000 % 2).astype(np.uint8), (1, 30))
            yield Rows(top, mask, np.zeros((3, *mask.shape), np.float32), np.zeros(mask.shape, np.float32))

    found = Segmentation(Tall(tmp_path / "a.png"), CLASSES, run)
    save([found], tmp_path, "overlays")
    with Image.open(tmp_path / "out" / "overlays" / "a.jpg") as file:
        assert file.width == 10
        assert file.height > 1667
        assert np.abs(np.asarray(file)[:1667].astype(int) - np.asarray(found.draw())[:1667]).mean() < 4


def test_the_overlay_of_a_huge_scene_keeps_no_more_than_it_shows(tmp_path):
    """12 million pixels, of which a hundredth is drawn; a view of a row would keep the row."""

    def run(raster):
        for top in range(0, 20_000, 100):
            yield Rows(top, np.zeros((100, 600), np.uint8), np.zeros((3, 100, 600)), np.zeros((100, 600)))

    tracemalloc.start()
    save([Segmentation(Tall(tmp_path / "a.png", 20_000, 600), CLASSES, run)], tmp_path, "overlays")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_the_table_has_the_pixels_of_each_class_and_the_seam_score(tmp_path):
    found = Fixed(picture(tmp_path / "a.png"))
    save([found], tmp_path)
    assert files(tmp_path) == ["predictions.csv"]
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    uncertainty = np.concatenate([rows.uncertainty for rows in found.rows()])
    assert row == {
        "path": str(tmp_path / "a.png"),
        "height": "90",
        "width": "70",
        **{f"pixels of {name}": str((found.mask == i).sum()) for i, name in enumerate(CLASSES.names)},
        "pixels without data": "1",
        "seam score": f"{np.nanmean(uncertainty.astype(float)):.6f}".rstrip("0"),
    }


@pytest.mark.parametrize("output", OUTPUTS)
def test_only_what_is_asked_for_is_written(tmp_path, output):
    save([Fixed(picture(tmp_path / "a.png"))], tmp_path, output)
    suffix = {"masks": "png", "overlays": "jpg"}.get(output, "npy")
    assert files(tmp_path) == sorted([f"{output}/a.{suffix}", "predictions.csv"])


def test_scenes_of_one_name_do_not_overwrite_each_other(tmp_path):
    save([Fixed(picture(tmp_path / name / "a.png")) for name in ("x", "y")], tmp_path, "masks")
    assert files(tmp_path) == ["masks/a-2.png", "masks/a.png", "predictions.csv"]


def test_an_unknown_output_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot save coco(.|\n)*known are masks, overlays, probabilities, uncert"):
        save_segmentations([], tmp_path / "out", ["masks", "coco"])
    assert not (tmp_path / "out").exists()


def test_a_scene_that_turns_out_damaged_leaves_nothing_and_stops_no_other(tmp_path):
    a, b, c = (picture(tmp_path / f"{name}.png") for name in "abc")
    passed = []
    with pytest.raises(DataError, match=r"image file is damaged  \(.*b\.png\)"):
        passed.extend(save_segmentations([Fixed(a), Fixed(b, fails=True), Fixed(c)], tmp_path / "out", OUTPUTS))
    assert [found.path for found in passed] == [a, c]
    assert not [name for name in files(tmp_path) if "b" in name.split("/")[-1].split(".")[0] and "/" in name]
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 3


def test_a_failure_leaves_the_table_with_what_came_before(tmp_path):
    def failing():
        yield Fixed(picture(tmp_path / "a.png"))
        raise RuntimeError("the second cannot be read")

    with pytest.raises(RuntimeError, match="the second cannot be read"):
        save(failing(), tmp_path, "masks")
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 2
