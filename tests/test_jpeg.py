import io

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from densenet_suite.errors import DataError
from densenet_suite.image_opening import DamagedImageError, read_header
from densenet_suite.images import read_image, read_pixels
from densenet_suite.jpeg import decode_jpeg, plain_header, reduction

KINDS = {
    "4:2:0": {"subsampling": 2},
    "4:4:4": {"subsampling": 0, "quality": 97},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
}


def _picture(size=(150, 200), mode="RGB", seed=0):
    """Return something that is neither flat nor noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)).convert(mode)


def _jpeg(path, mode="RGB", size=(150, 200), **options):
    _picture(size, mode).save(path, "JPEG", **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_jpeg_has_the_pixels_of_pillow(tmp_path, kind, mode):
    path = _jpeg(tmp_path / "a.jpg", mode, (151, 203), **KINDS[kind])
    theirs = np.asarray(Image.open(path)).reshape(151, 203, -1)
    assert np.array_equal(read_image(path)[0], theirs)


def test_real_jpegs_have_the_pixels_of_pillow(data_folder):
    for path in sorted((data_folder("coco-mini") / "images").rglob("*.jpg"))[::8]:
        assert np.array_equal(read_pixels(path, 3)[0], np.asarray(Image.open(path).convert("RGB"))), path.name


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_header_of_a_plain_jpeg_is_that_of_pillow(tmp_path, kind, mode):
    path = _jpeg(tmp_path / "a.jpg", mode, (151, 203), **KINDS[kind])
    assert plain_header(path.read_bytes()) == (151, 203, len(mode))
    assert read_image(path)[1] == read_header(path)


def test_headers_of_real_jpegs_are_those_of_pillow(data_folder):
    paths = sorted((data_folder("coco-mini") / "images").rglob("*.jpg"))
    plain = 0
    for path in paths:
        header = plain_header(path.read_bytes())
        plain += header is not None
        record = read_header(path)
        assert header in (None, (record.height, record.width, record.bands))
    assert plain > len(paths) / 2


@pytest.mark.parametrize(
    "options",
    [
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        {"xmp": b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'},
    ],
    ids=["EXIF", "XMP"],
)
def test_a_jpeg_that_may_be_turned_is_left_to_pillow(tmp_path, options):
    path = _jpeg(tmp_path / "a.jpg", size=(150, 200), **options)
    assert plain_header(path.read_bytes()) is None
    image, record = read_image(path)
    assert (record.height, record.width) == image.shape[:2] == ImageOps.exif_transpose(Image.open(path)).size[::-1]
    assert image.shape[:2] == (200, 150)


@pytest.mark.parametrize("mode", ["CMYK"])
def test_a_jpeg_of_other_bands_is_left_to_pillow(tmp_path, mode):
    assert plain_header(_jpeg(tmp_path / "a.jpg", mode).read_bytes()) is None


def test_two_pictures_in_one_file_are_left_to_pillow(tmp_path):
    _picture().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[_picture(seed=1)])
    assert plain_header((tmp_path / "a.jpg").read_bytes()) is None


def test_what_is_no_whole_header_is_left_to_pillow(tmp_path):
    content = _jpeg(tmp_path / "a.jpg").read_bytes()
    scan = content.index(b"\xff\xda")
    assert plain_header(b"") is None
    assert all(plain_header(content[:end]) is None for end in range(scan))


@pytest.mark.parametrize("by", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_is_cut_off_anywhere_is_refused_at_every_size(tmp_path, kind, by):
    content = _jpeg(tmp_path / "a.jpg", size=(96, 128), **KINDS[kind]).read_bytes()
    at_least = (96 // by, 128 // by)
    assert read_image(tmp_path / "a.jpg", at_least)[0].shape[:2] == at_least
    ends = sorted({*range(1, len(content), len(content) // 25), *range(len(content) - 20, len(content))})
    for end in ends:
        (tmp_path / "cut.jpg").write_bytes(content[:end])
        with pytest.raises(DamagedImageError, match=r"image file is damaged|not an image of a known kind"):
            read_image(tmp_path / "cut.jpg", at_least)


def test_what_opencv_does_not_decode_is_nothing():
    assert decode_jpeg(b"\xff\xd8\xff", 3, 1) is None
    assert decode_jpeg(b"", 3, 1) is None


@pytest.mark.parametrize(
    ("at_least", "by"),
    [
        (None, 1),
        ((600, 801), 1),
        ((400, 401), 1),
        ((301, 10), 1),
        ((300, 400), 2),
        ((151, 200), 2),
        ((150, 200), 4),
        ((75, 100), 8),
        ((1, 1), 8),
    ],
)
def test_a_jpeg_is_reduced_as_far_as_it_stays_large_enough(tmp_path, at_least, by):
    assert reduction(tmp_path / "a.JPG", (600, 800), at_least) == by
    assert reduction(tmp_path / "a.png", (600, 800), at_least) == 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_reduced_jpeg_is_the_mean_of_its_pixels_with_sides_rounded_up(tmp_path, mode, by):
    path = _jpeg(tmp_path / "a.jpg", mode, (157, 203), subsampling=0, quality=95)
    sides = (-(-157 // by), -(-203 // by))
    array, record = read_image(path, sides)
    assert array.shape == (*sides, 3 if mode == "RGB" else 1)
    assert (record.height, record.width) == (157, 203)
    whole = read_image(path)[0][: 157 // by * by, : 203 // by * by].astype(float)
    means = whole.reshape(157 // by, by, 203 // by, by, -1).mean((1, 3))
    assert np.abs(array[: means.shape[0], : means.shape[1]] - means).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = _jpeg(tmp_path / "a.jpg", exif=exif)
    whole, record = read_image(path)
    half, _ = read_image(path, (record.height // 2, record.width // 2))
    assert half.shape == (record.height // 2, record.width // 2, 3)
    small = Image.fromarray(whole).resize(half.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - half).mean() < 3


def test_a_jpeg_of_four_colours_is_read_whole(tmp_path):
    _picture(mode="CMYK").save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg", (10, 10))[0].shape == (150, 200, 3)


def test_a_picture_that_is_only_called_a_jpeg_is_read_whole(tmp_path):
    content = io.BytesIO()
    _picture().save(content, "PNG")
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    assert np.array_equal(read_image(tmp_path / "a.jpg", (10, 10))[0], np.asarray(_picture()))


def test_a_jpeg_beyond_the_limit_is_refused_by_its_header(tmp_path):
    content = bytearray(_jpeg(tmp_path / "a.jpg", quality=90).read_bytes())
    start = content.index(b"\xff\xc0") + 5  # height and width of the frame
    content[start : start + 4] = (65_000).to_bytes(2, "big") + (64_000).to_bytes(2, "big")
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"100,000,000"):
        read_image(tmp_path / "a.jpg", (10, 10))
