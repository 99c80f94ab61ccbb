"""What mask files hold, as they hold it."""

import numpy as np
import pytest
from PIL import Image

from densenet_suite.errors import DataError
from densenet_suite.segmentation.scene_files import MaskError, read_raw_mask, read_scene_header

VALUES = np.array([[0, 1, 2], [3, 0, 255]], np.uint8)


def _save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_numbers_are_read_as_they_are(tmp_path, name):
    raw = read_raw_mask(_save(tmp_path / name, VALUES))
    assert raw.values[:, :, 0].tolist() == VALUES.tolist()
    assert raw.values.shape == (2, 3, 1)
    assert (raw.lossy, raw.one_bit, raw.is_coloured) == (False, False, False)
    assert raw.nodata is None


@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint16), ("a.tif", np.uint16), ("a.tif", np.int32)])
def test_deep_numbers_are_not_cut(tmp_path, name, dtype):
    values = np.array([[0, 1000], [65535, 7]], dtype)
    assert read_raw_mask(_save(tmp_path / name, values)).values[:, :, 0].tolist() == values.tolist()


def test_a_palette_gives_indices_and_colours(tmp_path):
    image = Image.fromarray(VALUES % 4).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    image.save(tmp_path / "a.png")
    raw = read_raw_mask(tmp_path / "a.png")
    assert raw.values[:, :, 0].tolist() == (VALUES % 4).tolist()
    assert raw.palette.shape == (256, 3)
    assert raw.palette[:4].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 2, 3]]


def test_a_gif_has_a_palette(tmp_path):
    raw = read_raw_mask(_save(tmp_path / "a.gif", VALUES))
    assert raw.palette[raw.values[:, :, 0]][:, :, 0].tolist() == VALUES.tolist()


def test_white_of_one_bit_is_one_for_now(tmp_path):
    raw = read_raw_mask(_save(tmp_path / "a.png", np.array([[True, False]])))
    assert raw.one_bit
    assert raw.values[:, :, 0].tolist() == [[1, 0]]


def test_alpha_beside_grey_is_dropped(tmp_path):
    raw = read_raw_mask(_save(tmp_path / "a.png", np.stack([VALUES, VALUES[::-1]], 2)))
    assert raw.values[:, :, 0].tolist() == VALUES.tolist()
    assert raw.values.shape[2] == 1


@pytest.mark.parametrize("channels", [3, 4])
def test_greys_in_several_channels_are_no_colours(tmp_path, channels):
    array = np.stack([VALUES] * 3 + [np.full_like(VALUES, 255)] * (channels - 3), 2)
    assert read_raw_mask(_save(tmp_path / "a.png", array)).is_coloured is False
    array[0, 0, 1] += 1
    assert read_raw_mask(_save(tmp_path / "a.png", array)).is_coloured


@pytest.mark.parametrize(("name", "lossy"), [("a.jpg", True), ("a.webp", True), ("b.webp", False), ("a.png", False)])
def test_lossy_formats_are_known(tmp_path, name, lossy):
    options = {"lossless": True} if name == "b.webp" else {}
    assert read_raw_mask(_save(tmp_path / name, VALUES, "RGB", **options)).lossy is lossy


def test_a_mask_is_turned_upright_like_an_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = read_raw_mask(_save(tmp_path / "a.png", VALUES, exif=exif))
    assert raw.values[:, :, 0].tolist() == np.rot90(VALUES, -1).tolist()


def test_whole_numbers_may_be_stored_as_floats_and_nan_is_no_data(tmp_path):
    values = np.array([[0, 3], [np.nan, 7]], np.float32)
    raw = read_raw_mask(_save(tmp_path / "a.tif", values))
    assert raw.values.dtype == np.int64
    assert raw.nodata.tolist() == [[False, False], [True, False]]
    assert raw.values[:, :, 0][~raw.nodata].tolist() == [0, 3, 7]


@pytest.mark.parametrize("value", [0.25, np.inf, 1e20])
def test_fractions_are_refused(tmp_path, value):
    path = _save(tmp_path / "a.tif", np.array([[0, 1], [value, value]], np.float32))
    with pytest.raises(MaskError, match="no whole number, in 2 pixels, the first at row 1, column 0") as caught:
        read_raw_mask(path)
    (problem,) = caught.value.problems
    assert (caught.value.check, problem.where) == ("mask-fractions", str(path))
    assert problem.hint == "a mask numbers classes; probabilities have to be decided first"


def test_what_a_tiff_declares_to_be_no_data_is_marked(tmp_path):
    path = _save(tmp_path / "a.tif", VALUES, tiffinfo={42113: "3"})
    assert read_raw_mask(path).nodata.tolist() == (VALUES == 3).tolist()


def test_many_channels_and_signed_numbers_are_read_by_rasterio(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    values = np.stack([VALUES, VALUES[::-1]]).astype(np.int16)
    values[0, 0, 0] = -9
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=2, width=3, count=2, dtype="int16", nodata=-9, transform=(2, 0, 5, 0, -2, 6)
    ) as file:
        file.write(values)
    raw = read_raw_mask(path)
    assert raw.nodata.tolist() == [[True, False, False], [False, False, False]]
    assert (raw.values[~raw.nodata] == values.transpose(1, 2, 0)[~raw.nodata]).all()


def test_colours_of_16_bits_are_not_cut(tmp_path):
    cv2 = pytest.importorskip("cv2")
    array = np.array([[[1, 2, 300]]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), array)
    assert read_raw_mask(tmp_path / "a.png").values.tolist() == [[[300, 2, 1]]]


def test_several_frames_are_refused(tmp_path):
    frames = [Image.fromarray(VALUES), Image.fromarray(VALUES[::-1].copy())]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="mask file has 2 pages or frames"):
        read_raw_mask(tmp_path / "a.gif")


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_unreadable_files_are_refused_as_images_are(tmp_path, content):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"image file does not exist|image file is empty|not an image") as caught:
        read_raw_mask(path)
    assert caught.value.problems[0].where == str(path)


def test_the_header_of_a_raster_counts_all_bands(data_folder):
    pytest.importorskip("rasterio")
    folder = data_folder("geotiff-samples") / "images"
    record = read_scene_header(folder / "rotterdam_4band_uint16.tif")
    assert (record.height, record.width, record.bands, record.dtype) == (300, 300, 4, "uint16")
