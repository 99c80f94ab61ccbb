"""Files made to do harm: each is refused with its name, no payload runs, and memory stays bounded."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY
from faults.fuzzing import picture
from faults.mutations import HOSTILE_CHUNKS

from densenet_suite.config.load import load_config
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.csv_table import read_csv
from densenet_suite.detection.voc_xml import read_voc
from densenet_suite.detection.yolo_txt import read_yolo
from densenet_suite.detection.yolo_yaml import load_data_yaml
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.image_opening import read_header
from densenet_suite.images import read_image
from densenet_suite.rasters import read_raster
from densenet_suite.segmentation.pair_table import read_table
from densenet_suite.segmentation.scene_files import read_raw_mask

MEMORY = 1_000_000_000  # bytes of address space that a bomb may take
_READ = """
import json, resource, sys
from pathlib import Path
from densenet_suite.errors import DataError
from densenet_suite.image_opening import read_header
from densenet_suite.images import read_image
from densenet_suite.rasters import read_raster
from densenet_suite.segmentation.scene_files import read_raw_mask

taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]),) * 2)
for path in map(Path, sys.argv[2:]):
    for read in (read_header, read_image, read_raster, read_raw_mask):
        try:
            read(path)
            said = "read"
        except DataError as error:
            said = str(error)
        print(json.dumps([path.name, read.__name__, said]))
"""


def png(width: int, height: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = (b"IHDR", struct.pack(">II5B", width, height, depth, 0, 0, 0, 0))
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in (header, *chunks)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(width: int, height: int, strips: int) -> bytes:
    """A grey TIFF, deflated, of which all strips are the same few bytes."""
    data = zlib.compress(bytes(1_000_000), 9)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    start = 8 + 2 + 12 * 9 + 4
    offsets, counts = start + len(data), start + len(data) + 4 * strips
    entries += [(273, 4, strips, offsets), (277, 3, 1, 1), (278, 4, 1, -(-height // strips)), (279, 4, strips, counts)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    lists = struct.pack("<I", start) * strips + struct.pack("<I", len(data)) * strips
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + data + lists


def bombs() -> dict[str, bytes]:
    end = (b"IEND", b"")
    rows = zlib.compress(bytes(19 * 24), 9)
    texts = [chunk() for chunk in HOSTILE_CHUNKS[:3]]
    return {
        "pixels.png": png(60_000, 60_000, 1, (b"IDAT", zlib.compress(bytes(100_000_000), 9)), end),
        "rows.png": png(24, 18, 8, (b"IDAT", zlib.compress(bytes(300_000_000), 9)), end),
        **{f"{name.decode()}.png": png(24, 18, 8, (name, data), (b"IDAT", rows), end) for name, data in texts},
        "pixels.tif": tiff(100_000, 100_000, 1),
        "strips.tif": tiff(1000, 90_000, 90_000),
        "sides.tif": tiff(2**31 - 1, 1, 1),
        "sides.jpg": _jpeg_of(65_535, 65_535),
    }


def _jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(picture("L", "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def test_bombs_are_refused_within_a_gigabyte(tmp_path: Path) -> None:
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
    files = sorted(map(str, tmp_path.iterdir()))
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", _READ, str(MEMORY), *files]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == 4 * len(files)
    within = {"rows.png", "zTXt.png", "iTXt.png", "iCCP.png", "strips.tif"}  # the limit of pixels: they may be read
    for name, reader, words in said:
        assert name in words or (words == "read" and name in within), (name, reader, words)


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.canary), "w")


def test_the_payload_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary"))).close()
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy", "a.gif"])
def test_a_pickle_in_the_place_of_a_picture_is_not_run(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    header = b"\x93NUMPY\x01\x00F\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69) + b"\n"
    for start in (b"", header):
        file.write_bytes(start + pickle.dumps(Payload(tmp_path / "canary")))
        for read in (read_header, read_image, read_raster, read_raw_mask):
            with pytest.raises(DataError, match="not an image of a known kind"):
                read(file)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!<tag:a,2000:b>"])
def test_a_tag_in_a_yaml_is_refused_and_not_run(tmp_path: Path, tag: str) -> None:
    text = f"train: images\nnames: {tag} [{tmp_path / 'canary'}]\n"
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"yaml is not valid: could not determine a constructor .*data\.yaml:2"):
        load_data_yaml(tmp_path / "data.yaml")
    config = tmp_path / "config.yaml"
    config.write_text(f"task: detection\nname: {tag} [{tmp_path / 'canary'}]\n")
    with pytest.raises(ConfigError):
        load_config(config)
    assert not (tmp_path / "canary").exists()


ENTITIES = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 20))


@pytest.mark.parametrize("declared", [f'<!ENTITY a0 "lol">{ENTITIES}', '<!ENTITY a19 SYSTEM "secret.txt">'])
def test_entities_of_xml_neither_grow_nor_read_files(tmp_path: Path, declared: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    file = tmp_path / "a.xml"
    file.write_text(f"<!DOCTYPE a [{declared}]><annotation><filename>&a19;</filename></annotation>")
    with pytest.raises(DataError, match=r"declares a document type.*a\.xml:1") as caught:
        read_voc("train", tmp_path, tmp_path)
    assert "secret" not in str(caught.value)


LEADING_OUT = ["../a.png", "a/../../a.png", "/etc/passwd", "..\\a.png", "\\\\host\\share\\a.png"]
UNREADABLE = ["a\0.png", "\ud800.png", "x" * 5000 + ".png", "C:\\a.png", "file:///etc/passwd"]


@pytest.mark.parametrize("name", LEADING_OUT + UNREADABLE)
def test_names_that_lead_elsewhere_are_refused_by_every_reader(tmp_path: Path, name: str) -> None:
    """A picture lies where the names that lead out lead to, so that none is refused because nothing is there."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for place in (tmp_path / "a.png", root / "a.png", root / "images" / "a.png"):
        place.write_bytes(picture("RGB", "PNG"))
    images = [{"id": 1, "file_name": name}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (root / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a\.json"):
        read_coco("train", root / "a.json", root / "images")
    if "\ud800" in name:
        return  # the other formats are text in UTF-8, which cannot hold it
    (root / "a.csv").write_text(f"image,xmin,ymin,xmax,ymax,class\n{name},1,1,5,5,cat\n")
    with pytest.raises(DataError, match=r"a\.csv"):
        read_csv("train", root / "a.csv", root / "images")
    (root / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    (root / "train.txt").write_text(f"{name.replace('a.png', 'b.png')}\n")
    with pytest.raises(DataError, match=r"data\.yaml"):
        read_yolo("train", root / "data.yaml")
    if name in LEADING_OUT:
        (root / "pairs.csv").write_text(f"image,mask\n{name},masks/a.png\n")
        with pytest.raises(DataError, match=r"leads out of the dataset's folder  \(.*pairs\.csv:2"):
            read_table(root / "pairs.csv", root, "train")


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("RGB", "PNG"))
    file = tmp_path / "a.json"
    file.write_text(
        '{"images": [{"id": ' + "9" * 5000 + ', "file_name": "a.png"}], "annotations": [], "categories": []}'
    )
    with pytest.raises(DataError, match=r"annotation file is no sane JSON: Exceeds the limit .*a\.json"):
        read_coco("train", file, tmp_path)


def test_a_field_of_a_table_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"image,xmin,ymin,xmax,ymax,class\na.png,1,1,5,5,{'x' * 200_000}\n")
    with pytest.raises(DataError, match=r"table cannot be read: field larger than field limit .*a\.csv:"):
        read_csv("train", file, tmp_path)


def test_aliases_of_a_yaml_are_refused_before_they_grow(tmp_path: Path) -> None:
    levels = "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 20))
    (tmp_path / "data.yaml").write_text(f"b0: &b0 [a]\n{levels}train: images\nnames: *b19\n")
    with pytest.raises(DataError, match="yaml holds an alias"):
        load_data_yaml(tmp_path / "data.yaml")
    with pytest.raises(ConfigError, match="aliases are refused"):
        load_config(tmp_path / "data.yaml")
