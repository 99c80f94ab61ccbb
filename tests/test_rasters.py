import sys

import cv2
import numpy as np
import pytest
import rasterio
from PIL import ExifTags, Image

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.geo.geotiff import Georeference, GeoTiffWriter
from densenet_suite.images import read_image
from densenet_suite.rasters import check_bands, open_raster, read_raster, read_thumbnail, with_bands
from densenet_suite.tiles import Window

UTM = rasterio.CRS.from_epsg(32631)
PLACE = rasterio.Affine(0.5, 0, 593_000, 0, -0.5, 5_747_000)

# shape and depth that a sample is read in, and the depth of the file
SAMPLES = {
    "atlanta_pan_uint16": ((900, 900, 1), "float32", "uint16"),
    "nebraska_3band_int16": ((512, 512, 3), "float32", "int16"),
    "rotterdam_4band_uint16": ((300, 300, 4), "float32", "uint16"),
    "rotterdam_rgb_uint8": ((200, 200, 3), "uint8", "uint8"),
}


def write_tiff(path, values, **profile):
    """Write [h w c] by rasterio itself."""
    profile = {"crs": UTM, "transform": PLACE, **profile}
    mask, colours = profile.pop("mask", None), profile.pop("colorinterp", None)
    height, width, bands = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=values.dtype, **profile
    ) as file:
        file.write(values.transpose(2, 0, 1))
        if colours:
            file.colorinterp = colours
        if mask is not None:
            file.write_mask(mask)
    return path


def noise(shape, dtype=np.uint16, high=4000):
    return np.random.default_rng(0).integers(1, high, shape).astype(dtype)


@pytest.fixture
def samples(data_folder):
    return data_folder("geotiff-samples") / "images"


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_has_the_numbers_that_rasterio_reads(samples, name):
    shape, dtype, stored = SAMPLES[name]
    values, missing, record = read_raster(samples / f"{name}.tif")
    assert (values.shape, values.dtype, missing) == (shape, dtype, None)
    assert (record.height, record.width, record.bands, record.dtype) == (*shape, stored)
    with rasterio.open(samples / f"{name}.tif") as file:
        assert (values == file.read().transpose(1, 2, 0)).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_keeps_its_place_on_the_ground(samples, name):
    raster = open_raster(samples / f"{name}.tif")
    with rasterio.open(samples / f"{name}.tif") as file:
        assert raster.georeference == Georeference(file.crs, file.transform)


def test_complex_numbers_are_refused(samples):
    with pytest.raises(DataError, match="pixels are complex numbers") as caught:
        open_raster(samples / "rotterdam_sar_complex64.tif")
    assert caught.value.problems[0].where == str(samples / "rotterdam_sar_complex64.tif")
    assert "magnitude" in caught.value.problems[0].hint


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_windows_are_parts_of_the_whole(tmp_path, suffix):
    values = noise((90, 70, 3), np.uint8, 256)
    if suffix == "png":
        Image.fromarray(values).save(tmp_path / "a.png")
    else:
        write_tiff(tmp_path / "a.tif", values)
    with open_raster(tmp_path / f"a.{suffix}") as raster:
        for window in (Window(0, 0, 90, 70), Window(13, 7, 20, 30), Window(89, 69, 1, 1)):
            part = values[window.top :, window.left :][: window.height, : window.width]
            assert (raster.read(window).values == part).all()


def test_a_raster_may_be_entered_again(tmp_path):
    raster = open_raster(write_tiff(tmp_path / "a.tif", noise((9, 7, 1))))
    for _ in range(2):
        with raster:
            assert raster.read(Window(0, 0, 9, 7)).values.shape == (9, 7, 1)


def test_a_thumbnail_is_every_nth_pixel(tmp_path):
    values = noise((201, 70, 4))
    with open_raster(write_tiff(tmp_path / "a.tif", values)) as raster:
        assert (read_thumbnail(raster, 3) == values[::3, ::3]).all()
        assert (read_thumbnail(raster, 100) == values[::100, ::100]).all()


def test_plain_pictures_are_what_the_image_reader_makes_of_them(tmp_path):
    for name, picture in (
        ("a.jpg", Image.fromarray(noise((9, 7, 3), np.uint8, 256))),
        ("palette.png", Image.fromarray(noise((9, 7, 3), np.uint8, 256)).convert("P")),
        ("palette.tif", Image.fromarray(noise((9, 7, 3), np.uint8, 256)).convert("P")),
        ("alpha.tif", Image.fromarray(noise((9, 7, 4), np.uint8, 256), "RGBA")),
        ("cmyk.tif", Image.fromarray(noise((9, 7, 4), np.uint8, 256), "CMYK")),
        ("grey16.png", Image.fromarray(noise((9, 7)))),
        ("grey16.tif", Image.fromarray(noise((9, 7)))),
        ("float.tif", Image.fromarray(noise((9, 7), np.float32))),
    ):
        picture.save(tmp_path / name)
        values, missing, record = read_raster(tmp_path / name)
        expected, header = read_image(tmp_path / name)
        assert (values == expected).all()
        assert (missing, record) == (None, header)
        assert values.dtype == (np.uint8 if header.dtype == "uint8" else np.float32)
        assert open_raster(tmp_path / name).georeference is None


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (9, 7, 4)], ids=["grey", "RGB", "RGBA"])
def test_a_png_of_sixteen_bits_is_read_whole_and_without_alpha(tmp_path, shape):
    pixels = noise(shape, high=65536)
    stored = pixels if len(shape) == 2 else np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], -1)
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    values, _, record = read_raster(tmp_path / "a.png")
    assert (values == np.atleast_3d(pixels)[..., :3]).all()
    assert (record.bands, record.dtype, values.dtype) == (values.shape[2], "uint16", np.float32)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_of_sixteen_bits_is_upright(tmp_path, orientation):
    """OpenCV ignores the orientation; Pillow turns grey of 16 bits as we turn colours."""
    grey = noise((4, 6), high=65536)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(grey).save(tmp_path / "grey.png", exif=exif)
    upright, _ = read_image(tmp_path / "grey.png")
    values, _, record = read_raster(tmp_path / "grey.png")
    assert (values == upright).all()
    assert values.shape[:2] == (record.height, record.width)


def test_a_png_of_sixteen_bits_that_is_cut_off_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), noise((64, 64, 3), high=65536))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="image file is damaged"):
        read_raster(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (noise((9, 7, 5), np.uint8, 256), "uint8"),
        (noise((9, 7, 3)), "uint16"),
        (noise((9, 7, 13)), "uint16"),
        (-noise((9, 7, 1), np.int16), "int16"),
        (noise((9, 7, 2), np.float64), "float64"),
    ],
    ids=["5 bytes", "colour 16", "13 bands", "signed", "double"],
)
def test_what_pillow_cannot_hold_is_read_without_loss_also_with_no_place_on_the_ground(tmp_path, values, dtype):
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_tiff(tmp_path / "a.tif", values, crs=None, transform=None)
    found, _, record = read_raster(tmp_path / "a.tif")
    assert (found == values).all()
    assert (record.bands, record.dtype) == (values.shape[2], dtype)


def test_an_unsigned_pixel_is_missing_where_every_band_is_nodata(tmp_path):
    values = noise((9, 7, 3), np.uint8, 256)
    values[0, 0] = 0
    values[1, 1, 2] = 0  # a dark pixel
    found, missing, _ = read_raster(write_tiff(tmp_path / "a.tif", values, nodata=0))
    assert np.argwhere(missing).tolist() == [[0, 0]]
    assert (found == values).all()


def test_any_other_pixel_is_missing_where_one_band_is_nodata_and_then_it_is_zero(tmp_path):
    values = noise((9, 7, 3), np.int16)
    values[1, 1, 2] = -9999
    found, missing, _ = read_raster(write_tiff(tmp_path / "a.tif", values, nodata=-9999))
    assert np.argwhere(missing).tolist() == [[1, 1]]
    assert (found[1, 1] == 0).all()
    assert (found[~missing] == values[~missing]).all()


@pytest.mark.parametrize("nodata", [None, np.nan])
def test_what_is_no_finite_number_is_missing(tmp_path, nodata):
    values = noise((9, 7, 2), np.float64)
    values[0, 0, 0], values[1, 1, 1], values[2, 2, 0] = np.nan, np.inf, 1e300
    found, missing, _ = read_raster(write_tiff(tmp_path / "a.tif", values, nodata=nodata))
    assert np.argwhere(missing).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert np.isfinite(found).all()


def test_the_least_float_means_nodata_also_in_single_precision(tmp_path):
    lowest = float(np.finfo(np.float32).min)
    values = np.full((3, 4, 1), 0.5, np.float32)
    values[2, 3] = lowest
    _, missing, _ = read_raster(write_tiff(tmp_path / "a.tif", values, nodata=lowest))
    assert np.argwhere(missing).tolist() == [[2, 3]]


def test_alpha_says_what_is_missing_and_is_no_band(tmp_path):
    from rasterio.enums import ColorInterp

    values = noise((9, 7, 4), np.uint8, 256)
    values[..., 3] = 255
    values[4, 5, 3] = 0
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    found, missing, record = read_raster(write_tiff(tmp_path / "a.tif", values, colorinterp=colours))
    assert (record.bands, found.shape) == (3, (9, 7, 3))
    assert np.argwhere(missing).tolist() == [[4, 5]]


def test_a_fourth_band_that_gdal_calls_alpha_is_a_band_if_it_holds_more_than_that(tmp_path):
    values = noise((90, 70, 4), np.uint8, 256)
    values[4, 5, 3] = 0
    path = write_tiff(tmp_path / "a.tif", values)
    with rasterio.open(path) as file:
        assert file.colorinterp[3].name == "alpha"
    found, missing, record = read_raster(path)
    assert (record.bands, missing) == (4, None)
    assert (found == values).all()


def test_a_mask_beside_the_raster_says_what_is_missing(tmp_path):
    valid = np.full((9, 7), 255, np.uint8)
    valid[4, 5] = 0
    _, missing, _ = read_raster(write_tiff(tmp_path / "a.tif", noise((9, 7, 3)), mask=valid))
    assert np.argwhere(missing).tolist() == [[4, 5]]


def test_a_palette_with_a_place_on_the_ground_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8", crs=UTM, transform=PLACE
    ) as file:
        file.write_colormap(1, {0: (255, 0, 0, 255)})
    with pytest.raises(DataError, match="holds numbers of a palette, not colours") as caught:
        open_raster(tmp_path / "a.tif")
    assert "gdal_translate -expand rgb" in caught.value.problems[0].hint


def test_overviews_are_no_pages_but_pages_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", noise((64, 64, 1)))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    assert read_raster(path)[0].shape == (64, 64, 1)
    page = Image.new("L", (4, 3))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    with pytest.raises(DataError, match="TIFF has 2 pages and nothing says which one is meant"):
        open_raster(tmp_path / "pages.tif")


def test_a_raster_that_is_cut_off_is_refused_where_it_ends(tmp_path):
    path = write_tiff(tmp_path / "a.tif", noise((300, 70, 3)), compress="deflate")
    path.write_bytes(path.read_bytes()[:50_000])
    with open_raster(path) as raster:
        raster.read(Window(0, 0, 10, 70))
        with pytest.raises(DataError, match="image file is damaged") as caught:
            raster.read(Window(290, 0, 10, 70))
    assert caught.value.problems[0].where == str(path)


@pytest.mark.parametrize("content", [None, b"", b"<html>", b"II*\0" + bytes(20)])
def test_what_is_no_picture_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_raster(tmp_path / "a.tif")
    assert caught.value.problems[0].where == str(tmp_path / "a.tif")


def test_a_whole_raster_has_a_limit_and_its_windows_have_none(tmp_path):
    path = tmp_path / "a.tif"
    options = {"crs": UTM, "transform": PLACE, "sparse_ok": True, "tiled": True}
    with rasterio.open(path, "w", driver="GTiff", height=20_000, width=5_001, count=1, dtype="uint8", **options):
        pass  # all of it unwritten
    with pytest.raises(DataError, match="5001x20000 pixels, the limit for whole ones is 100,000,000") as caught:
        read_raster(path)
    assert caught.value.problems[0].hint == "cut it into tiles"
    with open_raster(path) as raster:
        assert raster.read(Window(19_990, 5_000, 10, 1)).values.shape == (10, 1, 1)


def test_rasterio_is_asked_for_only_where_it_is_needed(tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", noise((9, 7, 4)))
    Image.fromarray(noise((9, 7))).save(tmp_path / "plain.tif")
    monkeypatch.setitem(sys.modules, "rasterio", None)  # cannot be imported
    assert read_raster(tmp_path / "plain.tif")[0].shape == (9, 7, 1)
    with pytest.raises(MissingExtraError, match=r"reading a GeoTIFF, or .*a\.tif\) needs a package") as caught:
        read_raster(tmp_path / "a.tif")
    assert caught.value.problems[0].hint == 'pip install "densenet-suite[geo]"'


def test_grey_is_repeated_and_colour_becomes_luma(tmp_path):
    pixels = noise((9, 7, 3), np.uint8, 256)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    luma, _, _ = read_raster(tmp_path / "a.png", 1)
    np.testing.assert_allclose(luma[..., 0], pixels @ [0.299, 0.587, 0.114], atol=1)
    deep, _, _ = read_raster(write_tiff(tmp_path / "a.tif", noise((9, 7, 1))), 3)
    assert (deep == noise((9, 7, 1))).all()
    assert deep.shape == (9, 7, 3)


@pytest.mark.parametrize(("have", "want"), [(4, 3), (3, 4), (3, 1), (1, 4)])
def test_other_bands_than_the_wanted_are_refused(tmp_path, have, want):
    path = write_tiff(tmp_path / "a.tif", noise((9, 7, have)))
    with pytest.raises(DataError, match=f"image has {have} bands of uint16 where {want} are expected") as caught:
        read_raster(path, want)
    assert "gdal_translate -b" in caught.value.problems[0].hint
    record = open_raster(path).record
    with pytest.raises(DataError):
        check_bands(record, want)
    assert with_bands(np.zeros((2, 2, have)), have, record).shape == (2, 2, have)


def written(path, values, steps, georeference, **options):
    names = [f"band {i}" for i in range(len(values))]
    with GeoTiffWriter(path, values.shape[1:], str(values.dtype), names, georeference, 255, **options) as writer:
        for start in range(0, values.shape[1], steps):
            writer.append(values[:, start : start + steps])
    return path


@pytest.mark.parametrize("steps", [1, 100, 256, 600])
def test_rows_of_any_height_make_the_same_geotiff(tmp_path, steps):
    values = noise((2, 600, 300), np.float32)
    path = written(tmp_path / "a.tif", values, steps, Georeference(UTM, PLACE))
    with rasterio.open(path) as file:
        assert (file.read() == values).all()
        assert (file.crs, file.transform, file.shape, file.nodata) == (UTM, PLACE, (600, 300), 255)
        assert file.descriptions == ("band 0", "band 1")
    assert [child.name for child in tmp_path.iterdir()] == ["a.tif"]


def test_classes_have_their_colours_in_the_geotiff(tmp_path):
    path = written(
        tmp_path / "a.tif", noise((1, 9, 7), np.uint8, 2), 9, Georeference(UTM, PLACE), colours=[(0, 0, 0), (9, 8, 7)]
    )
    with rasterio.open(path) as file:
        assert file.colormap(1)[1] == (9, 8, 7, 255)


def test_a_raster_without_a_crs_is_written_without_one(tmp_path):
    values = noise((1, 9, 7), np.uint8, 2)
    path = written(tmp_path / "a.tif", values, 9, Georeference(None, rasterio.Affine.identity()))
    assert open_raster(path).georeference.crs is None
    assert (read_raster(path)[0][..., 0] == values[0]).all()


def test_points_on_the_ground_are_kept(tmp_path):
    points = [
        rasterio.control.GroundControlPoint(row, column, 4.5 + column / 99, 52 - row / 99)
        for row, column in ((0, 0), (0, 6), (8, 0), (8, 6))
    ]
    degrees = rasterio.CRS.from_epsg(4326)
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", height=9, width=7, count=1, dtype="uint8", gcps=points, crs=degrees):
        pass
    georeference = open_raster(path).georeference
    written(tmp_path / "b.tif", noise((1, 9, 7), np.uint8, 2), 9, georeference)
    with rasterio.open(path) as ours, rasterio.open(tmp_path / "b.tif") as theirs:
        assert [(p.row, p.col, p.x, p.y) for p in ours.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in theirs.gcps[0]]
        assert ours.gcps[1] == theirs.gcps[1] == degrees


def test_a_geotiff_is_whole_or_absent(tmp_path):
    def fail():
        with GeoTiffWriter(tmp_path / "a.tif", (9, 7), "uint8", ["class"], Georeference(UTM, PLACE), 255) as writer:
            writer.append(np.zeros((1, 4, 7), np.uint8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
