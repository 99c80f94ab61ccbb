"""Faults that fuzzing has found in the readers, one test for each, and the suite's share of the fuzzing itself."""

import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import REPOSITORY
from faults.fuzzing import picture
from faults.mutations import HOSTILE_SEGMENTS

from densenet_suite.archives.members import scan
from densenet_suite.archives.shards import find_shards
from densenet_suite.archives.writing import ArchiveWriter
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.csv_table import read_csv
from densenet_suite.detection.shards import read_shards
from densenet_suite.detection.yolo_txt import read_yolo
from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.image_opening import open_image, read_header
from densenet_suite.images import read_image
from densenet_suite.rasters import read_raster
from densenet_suite.reader_warnings import without_reader_warnings
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.layout import CocoFile, find_split
from densenet_suite.segmentation.reading import read_segmentation

CASES = 2000


def test_two_thousand_mutations_are_read_or_refused() -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "fuzz.py"), "--count", str(CASES), "--seed", "1"]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    cases, sound, refused, faults = map(int, re.findall(r"\d+", done.stdout.split("\nall")[1]))
    assert (cases, faults) == (CASES, 0)
    assert sound > CASES / 10 < refused


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory with (tag, type, count, value), in front of what its strips hold."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + data


def test_a_tiff_whose_second_page_has_no_size_is_damaged(tmp_path: Path) -> None:
    data = bytearray(picture("L", "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, len(data))
    file = tmp_path / "a.tif"
    file.write_bytes(data + bytes(6))
    for read in (read_header, read_image, read_raster):
        with pytest.raises(DataError, match=r"image file is damaged: .*a\.tif"):
            read(file)


@pytest.mark.parametrize("segment", [body for marker, body in HOSTILE_SEGMENTS if marker == 0xE1])
def test_exif_data_that_cannot_be_read_are_taken_for_none(tmp_path: Path, segment: bytes) -> None:
    sound = picture("RGB", "JPEG")
    file = tmp_path / "a.jpg"
    file.write_bytes(sound[:2] + struct.pack(">BBH", 255, 0xE1, len(segment) + 2) + segment + sound[2:])
    pixels, record = read_image(file)
    orientation = 6 if segment == HOSTILE_SEGMENTS[0][1] else 1
    assert record.orientation == orientation
    assert pixels.shape == ((24, 18, 3) if orientation == 6 else (18, 24, 3)) == (record.height, record.width, 3)


def test_warnings_are_as_they_were_when_all_threads_have_read(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture("RGB", "PNG"))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_header, [file] * 200))
    assert list(warnings.filters) == before


def test_only_what_pictures_give_rise_to_is_not_warned_of() -> None:
    with warnings.catch_warnings(record=True) as caught, without_reader_warnings():
        warnings.warn_explicit("EXIF", UserWarning, "a.py", 1, module="PIL.TiffImagePlugin")
        warnings.simplefilter("always")
        warnings.warn("ours", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["ours"]


def test_a_list_of_names_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(picture("L", "PNG"))
    (tmp_path / "train.txt").write_bytes(b"a\xff\n")
    with pytest.raises(DataError, match=r"list of names cannot be read: .*train\.txt"):
        find_split(tmp_path, "train")


def test_a_raster_of_thousands_of_bands_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    tags = ((256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200))
    file.write_bytes(tiff(*tags, (277, 3, 1, 32768), (278, 4, 1, 4), (279, 4, 1, 16), data=bytes(100)))
    pytest.importorskip("rasterio")
    with pytest.raises(DataError, match="raster has 32,768 bands, the limit is 4,096"):
        read_raster(file)


def test_a_raster_of_many_bands_is_read_whole_up_to_as_many_values(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    file = tmp_path / "a.tif"
    with (
        without_reader_warnings(),
        rasterio.open(
            file,
            "w",
            driver="GTiff",
            width=6000,
            height=6000,
            count=12,
            dtype="uint8",
            compress="deflate",
            sparse_ok=True,
        ),
    ):
        pass
    with pytest.raises(
        DataError, match="raster has 6000x6000 pixels, the limit for whole ones of 12 bands is 33,333,333"
    ):
        read_raster(file)


def test_a_png_whose_exif_data_end_early_is_damaged(tmp_path: Path) -> None:
    sound = picture("RGB", "PNG")
    behind_header = 8 + 25
    chunk = struct.pack(">I", 8) + b"eXIf" + b"II*\0\x08\0"  # two bytes short of their own length, and no checksum
    file = tmp_path / "a.png"
    file.write_bytes(sound[:behind_header] + chunk)
    with pytest.raises(DataError, match=r"a\.png"):
        read_header(file)


@pytest.mark.parametrize("error", [struct.error("short"), IndexError("index"), TypeError("Missing dimensions")])
def test_what_pillow_raises_is_damage_with_the_name_of_the_file(tmp_path: Path, error: Exception) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture("RGB", "PNG"))
    with pytest.raises(DataError, match=rf"image file is damaged: {error}  \(.*a\.png"), open_image(file):
        raise error


def test_a_file_that_asks_for_terabytes_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture("RGB", "PNG"))
    with pytest.raises(DataError, match=r"damaged: it asks for too much memory  \(.*a\.png"), open_image(file) as image:
        image.resize((2**31 - 1, 2**31 - 1))


def test_a_name_of_thousands_of_characters_in_a_yaml_is_no_place(tmp_path: Path) -> None:
    for entry in ("x" * 5000, "a\0b"):
        (tmp_path / "data.yaml").write_text(json.dumps({"path": entry, "train": entry, "names": ["cat"]}))
        with pytest.raises(DataError, match="is no place below the folder of the yaml"):
            read_yolo("train", tmp_path / "data.yaml")


def test_a_box_of_numbers_whose_product_is_infinite_is_not_finite(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("RGB", "PNG"))
    (tmp_path / "a.csv").write_text("image,xmin,ymin,xmax,ymax,class\na.png,1,1,1e200,1e200,cat\n")
    with pytest.raises(DataError, match="far beyond any picture"):
        read_csv("train", tmp_path / "a.csv", tmp_path)


def test_masks_of_a_file_without_images_are_refused_whatever_else_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    file = tmp_path / "a.json"
    annotations = [{"id": 1, "image_id": 7, "category_id": 1}]
    file.write_text(json.dumps({"images": [], "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}))
    files = CocoFile(file, tmp_path / "images")
    with pytest.raises(DataError, match="the train split has no image with a mask"):
        read_segmentation("train", files, find_codec(files))


def test_labels_in_an_archive_that_cannot_be_read_are_told_before_that_there_are_none(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path, "train", 10**6) as writer:
        writer.add({"a.png": picture("RGB", "PNG"), "a.json": b"[" * 100_000})
    shards = find_shards(tmp_path, ["train"])
    assert shards is not None
    with pytest.raises(DataError, match=r"train-000000\.tar!a\.json cannot be read"):
        read_shards("train", shards)


def test_a_header_of_an_archive_that_asks_for_terabytes_is_refused(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a").tobuf())
    header[156:157] = b"x"
    header[124:136] = b"\x80" + bytes(5) + b"\x20" + bytes(5)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DataError, match=r"archive cannot be read: .*a\.tar"):
        scan(tmp_path / "a.tar")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"image is no file but a pipe .*a\.png"):
        read_header(tmp_path / "a.png")


def test_a_file_that_would_start_a_program_is_no_picture(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(%pipe%touch ran) (w) file\n")
    with pytest.raises(DataError, match="not an image of a known kind"), open_image(file):
        pass


def test_annotations_of_a_refused_image_are_no_second_fault(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("RGB", "PNG"))
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "../a.png"}]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in (1, 2)]
    file = tmp_path / "a.json"
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    file.write_text(json.dumps(content))
    findings = Findings(str(file), stops=False)
    found = read_coco("train", file, tmp_path, findings=findings)
    assert [finding.check for finding in findings] == ["file-outside"]
    assert len(found.images) == 1
