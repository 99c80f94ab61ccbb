"""What is refused before it is decoded, and what headers say."""

import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from densenet_suite.errors import DataError
from densenet_suite.image_opening import MAX_PIXELS, read_header
from densenet_suite.images import read_image


def _png(width, height, depth=8, colour=2):
    """A PNG of which only the header is sound: enough to be opened, and too little to be decoded."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    page = Image.new("L", (4, 3))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(DataError, match="TIFF has 2 pages and nothing says which one is meant") as caught:
        read_header(tmp_path / "a.tif")
    assert caught.value.problems[0].hint == "write the page you mean to a file of its own"


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (20_000, 20_000)], ids=["ours", "Pillow's"])
def test_a_bomb_is_refused_by_its_header(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(_png(width, height))
    with pytest.raises(DataError, match=f"{MAX_PIXELS:,}") as caught:
        read_header(tmp_path / "a.png")
    assert caught.value.problems[0].hint == "cut it into tiles"


def test_a_header_is_read_without_decoding_the_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(_png(40, 30))
    assert read_header(tmp_path / "a.png").width == 40
    with pytest.raises(DataError, match="image file is damaged"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind the pixels"])
def test_the_orientation_of_a_png_is_found(tmp_path, behind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, exif=exif)
    if behind:
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
        path.write_bytes(content[:start] + content[stop:-12] + content[start:stop] + content[-12:])
    array, record = read_image(path)
    assert read_header(path) == record
    assert (record.orientation, record.height, record.width) == (6, 6, 4)
    assert array.shape == (6, 4, 3)


def test_a_picture_of_the_largest_size_is_no_bomb(tmp_path):
    (tmp_path / "a.png").write_bytes(_png(10_000, 10_000))
    assert read_header(tmp_path / "a.png").width == 10_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "image file does not exist"),
        (b"", "image file is empty"),
        (b"<html>404</html>", "file is not an image of a known kind"),
        (_png(40, 30), "image file is damaged"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, message):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert caught.value.problems[0].where == str(path)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(DataError, match=r"damaged: .*Is a directory"):
        read_image(tmp_path)
