import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from densenet_suite.errors import DataError
from densenet_suite.image_opening import read_header
from densenet_suite.images import find_images, read_image, read_pixels

# what a file of the bad inputs is read as: (height, width, bands) and dtype, or a part of the refusal
EXPECTED = {
    "files/ok_reference.jpg": ((268, 320, 3), "uint8"),
    "files/truncated.jpg": "image file is damaged: image file is truncated",
    "files/zero_byte.jpg": "image file is empty",
    "files/gray16.png": ((240, 320, 1), "uint16"),
    "files/gray8.png": ((268, 320, 1), "uint8"),
    "files/gray8.jpg": ((268, 320, 1), "uint8"),
    "files/rgba.png": ((268, 320, 3), "uint8"),
    "files/cmyk.jpg": ((268, 320, 3), "uint8"),
    "files/one_pixel.png": ((1, 1, 3), "uint8"),
    "files/wide_4000x16.png": ((16, 4000, 3), "uint8"),
    **{f"exif/images/orientation_{i}.jpg": ((270, 360, 3), "uint8") for i in range(1, 9)},
}
SOUND = [name for name, expected in EXPECTED.items() if isinstance(expected, tuple)]
REFUSED = [name for name, expected in EXPECTED.items() if isinstance(expected, str)]


@pytest.fixture
def bad(data_folder):
    return data_folder("bad-inputs")


def test_no_image_of_the_manifest_is_without_an_expectation(bad):
    with open(bad / "manifest.csv", newline="", encoding="utf-8") as file:
        listed = {row["file"] for row in csv.DictReader(file)}
    pictures = {name for name in listed if name.startswith(("files/", "exif/"))}
    assert pictures == {*EXPECTED, "exif/annotations.json"}


@pytest.mark.parametrize("name", SOUND)
def test_a_file_is_read_as_its_header_says(bad, name):
    shape, dtype = EXPECTED[name]
    array, record = read_image(bad / name)
    assert (array.shape, array.dtype) == (shape, dtype)
    assert (record.height, record.width, record.bands, record.dtype) == (*shape, dtype)
    assert read_header(bad / name) == record
    assert array.flags.c_contiguous
    assert array.flags.writeable


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_file_is_refused_and_named(bad, name):
    with pytest.raises(DataError, match=EXPECTED[name]) as caught:
        read_image(bad / name)
    assert caught.value.problems[0].where == str(bad / name)


def test_a_truncated_file_is_refused_by_its_pixels_alone(bad):
    record = read_header(bad / "files" / "truncated.jpg")
    assert (record.height, record.width) == (268, 320)


def test_sixteen_bits_are_read_whole(bad):
    theirs = cv2.imread(str(bad / "files" / "gray16.png"), cv2.IMREAD_UNCHANGED)
    ours, _ = read_image(bad / "files" / "gray16.png")
    assert theirs.max() > 255
    assert (ours[..., 0] == theirs).all()


def test_sixteen_bits_are_never_cut_to_eight(bad):
    with pytest.raises(DataError, match="pixels are uint16, this model takes 8 bits") as caught:
        read_pixels(bad / "files" / "gray16.png", 3)
    assert caught.value.problems[0].where == str(bad / "files" / "gray16.png")
    assert "gdal_translate -ot Byte -scale" in caught.value.problems[0].hint


@pytest.mark.parametrize("shape", [(9, 7, 3), (9, 7, 4)], ids=["RGB", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_colour_are_never_cut_to_eight(tmp_path, shape, suffix):
    path = tmp_path / f"colour.{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16))
    assert read_header(path).dtype == "uint16"
    with pytest.raises(DataError, match="16 bits") as caught:
        read_pixels(path, 3)
    assert caught.value.problems[0].where == str(path)


def test_alpha_is_dropped_and_the_colours_below_it_kept(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    pixels[:4, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    array, record = read_image(tmp_path / "a.png")
    assert record.bands == 3
    assert (array == pixels[..., :3]).all()


def test_the_alpha_of_the_bad_inputs_is_dropped(bad):
    theirs = cv2.imread(str(bad / "files" / "rgba.png"), cv2.IMREAD_UNCHANGED)[..., 2::-1]
    assert (read_image(bad / "files" / "rgba.png")[0] == theirs).all()


def test_cmyk_has_the_colours_of_the_reference(bad):
    ours = read_image(bad / "files" / "cmyk.jpg")[0].astype(float)
    reference = read_image(bad / "files" / "ok_reference.jpg")[0].astype(float)
    assert np.abs(ours - reference).mean() < 5  # each is a JPEG of its own
    assert np.abs(ours.mean((0, 1)) - reference.mean((0, 1))).max() < 1


def test_grey_is_repeated_for_three_bands(bad):
    grey, _ = read_image(bad / "files" / "gray8.png")
    array, record = read_pixels(bad / "files" / "gray8.png", 3)
    assert record.bands == 1
    assert array.shape == (268, 320, 3)
    assert (array == grey).all()


def test_colour_becomes_luma_for_one_band(bad):
    colour, _ = read_image(bad / "files" / "ok_reference.jpg")
    grey, record = read_pixels(bad / "files" / "ok_reference.jpg", 1)
    assert record.bands == 3
    assert grey.shape == (268, 320, 1)
    np.testing.assert_allclose(grey[..., 0], colour @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("bands", [1, 3])
def test_eight_bits_of_the_right_bands_are_left_alone(bad, bands):
    name = "gray8.png" if bands == 1 else "ok_reference.jpg"
    assert (read_pixels(bad / "files" / name, bands)[0] == read_image(bad / "files" / name)[0]).all()


@pytest.mark.parametrize("i", range(2, 9))
def test_all_orientations_show_one_upright_picture(bad, i):
    upright, _ = read_image(bad / "exif" / "images" / "orientation_1.jpg")
    turned, record = read_image(bad / "exif" / "images" / f"orientation_{i}.jpg")
    assert record.orientation == i
    assert np.abs(turned.astype(int) - upright.astype(int)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_turned_tiff_is_upright(tmp_path, mode, compression, orientation):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 60_000, (5, 7), np.uint16) if mode == "I;16" else rng.integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(stored) if mode == "I;16" else Image.fromarray(stored).convert(mode)
    picture.save(tmp_path / "turned.tif", tiffinfo={274: orientation}, compression=compression)
    picture.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB" if mode in ("P", "RGB") else mode))
    pixels, record = read_image(tmp_path / "turned.tif")
    assert np.array_equal(pixels[..., 0] if pixels.shape[2] == 1 else pixels, upright * (255 if mode == "1" else 1))
    assert (record.height, record.width) == pixels.shape[:2] == ((5, 7) if orientation < 5 else (7, 5))
    again = read_header(tmp_path / "turned.tif")
    assert (again.height, again.width, again.orientation) == (record.height, record.width, orientation)


def test_the_boxes_of_the_orientations_fit_the_sizes_read(bad):
    listed = json.loads((bad / "exif" / "annotations.json").read_text())["images"]
    headers = [read_header(bad / "exif" / "images" / entry["file_name"]) for entry in listed]
    assert [(h.height, h.width) for h in headers] == [(entry["height"], entry["width"]) for entry in listed]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_eight_bit_mode_is_grey_or_rgb(tmp_path, mode):
    colours = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    picture = Image.fromarray(colours).convert(mode)
    picture.save(path)
    array, record = read_image(path)
    grey = mode in ("1", "L", "LA")
    assert array.shape == (9, 7, 1 if grey else 3)
    assert record.bands == array.shape[2]
    expected = np.asarray(picture.convert("L" if grey else "RGB")).reshape(array.shape)
    assert (array == expected).all()


def test_a_palette_with_transparency_is_rgb(tmp_path):
    picture = Image.new("P", (4, 3), 1)
    picture.putpalette([0, 0, 0, 250, 100, 20])
    picture.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    assert (read_image(tmp_path / "a.png")[0] == (250, 100, 20)).all()


def test_floats_are_read_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    array, record = read_image(tmp_path / "a.tif")
    assert record.dtype == "float32"
    assert (array[..., 0] == pixels).all()
    with pytest.raises(DataError, match="pixels are float32, this model takes 8 bits"):
        read_pixels(tmp_path / "a.tif", 1)


@pytest.mark.parametrize("value", [-1, 65536])
def test_whole_numbers_beyond_sixteen_bits_are_refused(tmp_path, value):
    Image.fromarray(np.full((3, 4), value, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"I image holds values outside 0\.\.65535"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["png", "tif", "bmp", "webp", "jpg"])
def test_a_cut_off_file_of_any_kind_is_refused(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"whole.{kind}")
    content = (tmp_path / f"whole.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(DataError):
        read_image(tmp_path / f"cut.{kind}")


@pytest.fixture
def pictures(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.tiff", "sub/deep/d.webp", "notes.txt", "sub/e.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def _relative(found, root):
    return [path.relative_to(root).as_posix() for path in found]


def test_a_folder_means_its_pictures_to_its_depths_sorted(pictures):
    assert _relative(find_images(pictures), pictures) == ["a.PNG", "b.jpg", "sub/c.tiff", "sub/deep/d.webp"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("*.jpg", ["b.jpg"]), ("sub/*", ["sub/c.tiff", "sub/e.json"]), ("**/*.webp", ["sub/deep/d.webp"])],
)
def test_a_pattern_means_the_files_it_matches(pictures, pattern, expected):
    assert _relative(find_images(f"{pictures}/{pattern}"), pictures) == expected


def test_a_file_means_itself_also_with_brackets_in_its_name(pictures):
    (pictures / "photo[1].jpg").touch()
    assert find_images(pictures / "photo[1].jpg") == [pictures / "photo[1].jpg"]


def test_a_file_that_is_not_there_is_left_to_the_reader(tmp_path):
    (path,) = find_images(tmp_path / "nothing.jpg")
    with pytest.raises(DataError, match="image file does not exist"):
        read_image(path)


def test_a_folder_without_pictures_says_which_are_known(tmp_path):
    with pytest.raises(DataError, match=r"folder holds no images  \(.*\)\n  hint: known are \.jpg, \.jpeg, \.png"):
        find_images(tmp_path)


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no file matches the pattern"):
        find_images(tmp_path / "*.jpg")
