"""Hostile files, each from the number of its case alone, and what must hold when a reader meets one.

A reader gives a sound sample (boxes inside their picture, labels and mask values of the table, pixels of the size that
the header states), or says in a `DataError` or `ConfigError` what is wrong and in which file. Anything else is a fault:
another exception, a warning, and, seen by `tools/fuzz.py` from outside, a crash, a hang or memory without bound.
"""

import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from faults.mutations import mutate_bytes, mutate_jpeg, mutate_json, mutate_png, mutate_tar, mutate_text, mutate_tiff
from PIL import Image, PngImagePlugin

from densenet_suite.archives.shards import ShardSplit
from densenet_suite.archives.writing import write_index
from densenet_suite.config.load import load_config
from densenet_suite.detection import layout as box_layout
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.csv_table import read_csv
from densenet_suite.detection.datasets import DetectionSet
from densenet_suite.detection.shards import read_shards
from densenet_suite.detection.voc_xml import read_voc
from densenet_suite.detection.yolo_txt import read_yolo
from densenet_suite.errors import ConfigError, DataError, SuiteError
from densenet_suite.image_opening import read_header
from densenet_suite.images import read_pixels
from densenet_suite.rasters import read_raster
from densenet_suite.segmentation import layout as mask_layout
from densenet_suite.segmentation.datasets import SegmentationSet
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.masks import MaskCodec
from densenet_suite.segmentation.pairing import Pair, PairedFiles
from densenet_suite.segmentation.reading import read_scene, read_segmentation
from densenet_suite.segmentation.structures import IGNORE

HEIGHT, WIDTH = 18, 24
_TABLE = {"background": 0, "road": 1, "roof": [2, 3]}


class UnsoundError(Exception):
    """A reader let through what training could not use."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that is fuzzed.

    Attributes:
        fixed: writes what stays the same into a folder.
        seeds: sound files by their place in the folder, of which each case changes one.
        mutate: changes one.
        read: reads the folder and looks whether the sample is sound; is told the place of the changed file.
    """

    fixed: Callable[[Path], None]
    seeds: Callable[[], Mapping[str, bytes]]
    mutate: Callable[[bytes, Random], bytes]
    read: Callable[[Path, str], None]


class Case:
    """A folder in which the cases of one kind are played, one after the other."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.kind = KINDS[name]
        self.kind.fixed(folder)
        self.seeds = dict(self.kind.seeds())
        for place, data in self.seeds.items():
            write(folder / place, data)

    def bytes_of(self, number: int) -> tuple[str, bytes]:
        """Return which file a case changes, and what becomes of it."""
        random = Random(f"{self.name} {number}")
        place = random.choice(sorted(self.seeds))
        return place, self.kind.mutate(self.seeds[place], random)

    def play(self, number: int) -> str:
        """Return sound or refused.

        Raises:
            Exception: anything else; it is a fault.
        """
        place, data = self.bytes_of(number)
        file = self.folder / place
        file.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.kind.read(self.folder, place)
        except (DataError, ConfigError) as error:
            _check_message(error, self.folder, file)
            return "refused"
        finally:
            file.write_bytes(self.seeds[place])
        return "sound"


def _check_message(error: SuiteError, folder: Path, file: Path) -> None:
    for problem in error.problems:
        text = str(problem)
        if not problem.what.strip() or not (str(folder) in text or file.name in text or "data.classes" in text):
            raise UnsoundError(f"the message names no file: {text!r}")


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def picture(mode: str, form: str, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> bytes:
    """Return the bytes of a picture with structure in it."""
    width, height = size
    grey = np.add.outer(np.arange(height) * 5, np.arange(width) * 3)
    if mode == "I;16":
        image = Image.fromarray((grey * 300).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32))
    elif mode == "classes":
        image = Image.fromarray((grey // 40 % 4).astype(np.uint8))
        if options.pop("palette", False):
            image.putpalette([0, 0, 0, 128, 64, 128, 70, 70, 70, 9, 9, 9])
    else:
        colours = np.stack([grey % 256, 255 - grey % 256, grey * 7 % 256], 2).astype(np.uint8)
        image = Image.fromarray(colours).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _check(sound: Any, what: str) -> None:
    if not sound:
        raise UnsoundError(what)


def check_boxes(found: DetectionSet, folder: Path) -> None:
    """Look at every box, label and path of a split."""
    _check(len(found.classes) and len(found), "no class or no image")
    _check(all(isinstance(name, str) and name for name in found.classes.names), "class without name")
    for image in found.images:
        _check(image.path.resolve().is_relative_to(folder.resolve()), f"{image.path} is outside")
        _check((image.height, image.width) == (HEIGHT, WIDTH), f"{image.path} has the size of another picture")
        objects = image.objects
        boxes = objects.clipped(image.height, image.width)
        _check(objects.boxes.shape == (len(objects), 4), "shape of boxes")
        _check(np.isfinite(objects.boxes).all() and np.isfinite(objects.areas).all(), "not finite")
        _check((boxes[:, 2:] > boxes[:, :2]).all() and (objects.areas > 0).all(), f"no area: {objects}")
        _check(((objects.labels >= 0) & (objects.labels < len(found.classes))).all(), "label of no class")
        _check(len(objects.ids) == len(objects.segmentations) == len(objects.crowd) == len(objects), "lengths differ")
    json.dumps(found.report(), allow_nan=False).encode()


def check_masks(found: SegmentationSet, folder: Path) -> None:
    """Look at every mask and picture of a split."""
    _check(len(found) and len(found.classes), "no image or no class")
    for scene in found.scenes:
        _check(scene.path.resolve().is_relative_to(folder.resolve()), f"{scene.path} is outside")
        pixels, mask = read_scene(scene)
        _check(pixels.shape == (scene.height, scene.width, scene.bands) and np.isfinite(pixels).all(), "picture")
        _check(mask.dtype == np.uint8 and mask.shape[-2:] == (scene.height, scene.width), "shape of mask")
        _check(set(np.unique(mask).tolist()) <= {*range(max(2, len(found.classes))), IGNORE}, "value of no class")
    json.dumps(found.report(), allow_nan=False).encode()


def _read_boxes(folder: Path, place: str) -> None:
    files = box_layout.find_split(folder, "train")
    if files is None:
        raise DataError("no split", where=str(folder))
    if isinstance(files, box_layout.CocoFile):
        found = read_coco("train", files.annotations, files.images)
    elif isinstance(files, box_layout.VocFolder):
        found = read_voc("train", files.annotations, files.images, None, files.names)
    elif isinstance(files, box_layout.CsvFile):
        found = read_csv("train", files.table, files.images)
    elif isinstance(files, ShardSplit):
        found = read_shards("train", files)
    else:
        found = read_yolo("train", files.data, None, files.key)
    check_boxes(found, folder)


def _read_masks(folder: Path, place: str) -> None:
    files = mask_layout.find_split(folder, "train")
    if files is None:
        raise DataError("no split", where=str(folder))
    check_masks(read_segmentation("train", files, find_codec(files)), folder)


def _read_coco(folder: Path, place: str) -> None:
    _first_of(lambda: _read_boxes(folder, place), lambda: _read_masks(folder, place))


def _read_mask(folder: Path, place: str) -> None:
    files = PairedFiles(folder, (Pair(folder / "a.png", (folder / place,)),))
    _first_of(
        lambda: check_masks(read_segmentation("train", files, MaskCodec.create(_TABLE)), folder),
        lambda: check_masks(read_segmentation("train", files, find_codec(files)), folder),
    )


def _read_config(folder: Path, place: str) -> None:
    config: Any = load_config(folder / place, check_paths=False)
    if config.task == "segmentation" and config.data.classes is not None:
        data = config.data
        codec = MaskCodec.create(
            data.classes, ignore=data.ignore, nearest=data.nearest_colour, multilabel=data.multilabel
        )
        _check(len(codec.classes) == len(codec.values) > 0, "classes without values")


def _read_picture(folder: Path, place: str) -> None:
    path = folder / place

    def header() -> None:
        record = read_header(path)
        _check(record.height > 0 and record.width > 0 and record.bands in (1, 3), f"header {record}")

    def small() -> None:
        pixels, record = read_pixels(path, 3)
        _check(pixels.shape == (record.height, record.width, 3) and pixels.dtype == np.uint8, "pixels and header")
        again = read_header(path)
        _check((again.height, again.width) == (record.height, record.width), "two sizes")

    def any_depth() -> None:
        values, missing, record = read_raster(path)
        _check(values.shape == (record.height, record.width, record.bands), "raster and header")
        _check(values.dtype in (np.uint8, np.float32) and np.isfinite(values).all(), "values")
        _check(missing is None or missing.shape == values.shape[:2], "what is missing")

    _first_of(any_depth, small, header)


def _first_of(*readers: Callable[[], None]) -> None:
    """Let all of them read; the file is refused if the first one refuses it."""
    refusal: SuiteError | None = None
    for i, read in enumerate(readers):
        try:
            read()
        except (DataError, ConfigError) as error:
            refusal = error if i == 0 else refusal
            if i > 0 and not str(error).strip():
                raise UnsoundError("empty message") from error
    if refusal is not None:
        raise refusal


def _pictures(*places: str) -> Callable[[Path], None]:
    def write_all(folder: Path) -> None:
        for place in places:
            write(folder / place, picture("RGB", "PNG"))

    return write_all


def _nothing(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _with_masks(folder: Path) -> None:
    _pictures("images/a.png", "images/b.png")(folder)
    for name in ("a", "b"):
        write(folder / "masks" / f"{name}.png", picture("classes", "PNG"))


def _coco_seeds() -> dict[str, bytes]:
    images = [{"id": i, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for i, n in ((7, "a"), (9, "b"))]
    outline = {"segmentation": [[2, 2, 12, 2, 12, 10]], "area": 40.0}
    runs = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [100, 40, 292]}, "iscrowd": 1}
    text_runs = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "T3X1T9"}, "iscrowd": 0}
    box = {"bbox": [2, 2, 10.5, 8], "category_id": 1, "iscrowd": 0}
    annotations = [
        {"id": 1, "image_id": 7, **box, **outline},
        {"id": 2, "image_id": 9, **box, "category_id": 5, **runs},
        {"id": 3, "image_id": 9, **box, **text_runs},
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return {"annotations/instances_train.json": json.dumps(content).encode()}


def _mutate_json_or_text(data: bytes, random: Random) -> bytes:
    if random.random() < 0.2:
        return mutate_text(data.decode(), random)
    return mutate_json(json.loads(data), random)


def _mutate_text(data: bytes, random: Random) -> bytes:
    return mutate_text(data.decode(), random)


def _voc_seeds() -> dict[str, bytes]:
    text = (
        "<annotation>\n<filename>{name}.png</filename><size><width>24</width><height>18</height><depth>3</depth></size>"
        "\n<object><name>cat</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>12</xmax>"
        "<ymax>9.5</ymax></bndbox></object>\n<object><name>dog</name><difficult>1</difficult><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>24</xmax><ymax>18</ymax></bndbox></object>\n</annotation>\n"
    )
    declared = '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE annotation [<!ENTITY a "aaaa">]>\n'
    return {
        "Annotations/a.xml": text.format(name="a").encode(),
        "Annotations/b.xml": (declared.partition("\n")[0] + text.format(name="b")).encode(),
        "ImageSets/Main/train.txt": b"a\nb\n",
    }


def _mutate_xml(data: bytes, random: Random) -> bytes:
    changed = mutate_text(data.decode(), random)
    if random.random() < 0.15:
        bomb = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
        forms = (
            f'<!DOCTYPE a [<!ENTITY a0 "lol">{bomb}]><annotation><filename>&a9;</filename></annotation>',
            '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>',
            "<annotation>" + "<a>" * 100_000,
            "<annotation>" + "<object>" * 1000 + "</object>" * 1000 + "</annotation>",
            "<annotation " + " ".join(f'a{i}="1"' for i in range(5000)) + "/>",
        )
        return random.choice(forms).encode() + (changed if random.random() < 0.3 else b"")
    return changed


def _yolo_seeds() -> dict[str, bytes]:
    return {
        "data.yaml": b"path: .\ntrain: images/train\nval: [images/val, more.txt]\nnc: 2\nnames:\n  0: cat\n  1: dog\n",
        "labels/train/a.txt": b"0 0.5 0.5 0.25 0.5\n1 0.25 0.3 0.1 0.2\n",
        "labels/train/b.txt": b"1 0.5 0.5 1 1\n",
    }


def _yolo_list_seeds() -> dict[str, bytes]:
    return {"train.txt": b"images/train/a.png\n./images/train/b.png\n"}


def _yolo_list_fixed(folder: Path) -> None:
    _pictures("images/train/a.png", "images/train/b.png")(folder)
    write(folder / "data.yaml", b"train: train.txt\nnames: [cat, dog]\n")
    write(folder / "labels/train/a.txt", b"0 0.5 0.5 0.25 0.5\n")


def _csv_seeds() -> dict[str, bytes]:
    rows = ["image,xmin,ymin,xmax,ymax,class", "a.png,2,3,12,9.5,cat", 'a.png,1,1,24,18,"dog, big"', "b.png,,,,,", ""]
    return {"train.csv": "\n".join(rows).encode()}


def _pair_seeds() -> dict[str, bytes]:
    return {"pairs.csv": b"image,mask,split\nimages/a.png,masks/a.png,train\nimages/b.png,masks/b.png,train\n"}


def _name_seeds() -> dict[str, bytes]:
    return {"train.txt": b"a\nb.png\n"}


def _config_seeds() -> dict[str, bytes]:
    config = {"task": "segmentation", "name": "a", "model": {"decoder": "unet", "weights": None}}
    tables: Iterable[Any] = (
        {"classes": {"background": 0, "road": 1, "roof": [2, 3]}, "ignore": [7], "multilabel": False},
        {
            "classes": {"road": "#804080", "roof": ["#464646", "#000000"]},
            "nearest_colour": True,
            "mask_name": "{stem}_m",
        },
    )
    return {
        f"{i}.yaml": yaml.safe_dump({**config, "data": {"root": ".", "crop": 64, **table}}, sort_keys=False).encode()
        for i, table in enumerate(tables)
    }


def _png_seeds() -> dict[str, bytes]:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "x" * 50, zip=True)
    turned = Image.Exif()
    turned[274] = 6
    return {
        "rgb.png": picture("RGB", "PNG", pnginfo=note, exif=turned),
        "grey.png": picture("L", "PNG"),
        "alpha.png": picture("RGBA", "PNG"),
        "palette.png": picture("P", "PNG", transparency=3),
        "deep.png": picture("I;16", "PNG"),
        "deep_colour.png": _deep_colour_png(),
        "bit.png": picture("1", "PNG"),
    }


def _deep_colour_png() -> bytes:
    import cv2

    pixels = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint16).reshape(HEIGHT, WIDTH, 3) * 40
    return bytes(cv2.imencode(".png", pixels)[1])


def _jpeg_seeds() -> dict[str, bytes]:
    turned = Image.Exif()
    turned[274] = 6
    turned[0x010E] = "x" * 40
    return {
        "rgb.jpg": picture("RGB", "JPEG", exif=turned, icc_profile=b"x" * 200),
        "grey.jpg": picture("L", "JPEG"),
        "cmyk.jpg": picture("CMYK", "JPEG"),
        "progressive.jpg": picture("RGB", "JPEG", (80, 60), progressive=True, restart_marker_rows=1),
    }


def _tiff_seeds() -> dict[str, bytes]:
    forms = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    seeds = {f"{form}.tif": picture("RGB", "TIFF", compression=form) for form in forms}
    fax = picture("1", "TIFF", compression="group4")
    deep, real = picture("I;16", "TIFF"), picture("F", "TIFF", compression="tiff_lzw")
    return {**seeds, "fax.tif": fax, "deep.tif": deep, "float.tif": real, "palette.tif": picture("P", "TIFF")}


def _geotiff(folder: Path, name: str, bands: int, dtype: str, **options: Any) -> bytes:
    import rasterio

    profile = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "count": bands, "dtype": dtype, **options}
    profile["transform"] = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
    values = np.arange(bands * HEIGHT * WIDTH).reshape(bands, HEIGHT, WIDTH) * 3 % 250
    with rasterio.open(folder / name, "w", **profile) as file:
        file.write(values.astype(dtype))
    return (folder / name).read_bytes()


def _geotiff_seeds() -> dict[str, bytes]:
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "bands.tif": _geotiff(folder, "bands.tif", 5, "uint16", nodata=0, crs="EPSG:32633"),
            "tiles.tif": _geotiff(folder, "tiles.tif", 3, "uint8", compress="deflate", **tiles),
            "float.tif": _geotiff(folder, "float.tif", 1, "float32", nodata=-9999, compress="lzw", predictor=3),
            "jpeg.tif": _geotiff(folder, "jpeg.tif", 3, "uint8", compress="jpeg", photometric="ycbcr", **tiles),
            "big.tif": _geotiff(folder, "big.tif", 2, "int16", bigtiff="yes", interleave="band"),
        }


def _mask_seeds() -> dict[str, bytes]:
    return {
        "masks/a.png": picture("classes", "PNG"),
        "masks/b.png": picture("classes", "PNG", palette=True),
        "masks/c.tif": picture("classes", "TIFF", compression="tiff_lzw"),
        "masks/d.png": picture("1", "PNG"),
        "masks/e.gif": picture("classes", "GIF", palette=True),
        "masks/f.bmp": picture("classes", "BMP"),
    }


def _mutate_mask(data: bytes, random: Random) -> bytes:
    starts = {b"\x89PN": mutate_png, b"II*": mutate_tiff, b"MM\0": mutate_tiff}
    return starts.get(data[:3], mutate_bytes)(data, random)


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _labels() -> dict[str, Any]:
    return {"boxes": [[2, 2, 12, 10.5], [1, 1, 9, 9]], "labels": ["cat", "dog"], "crowd": [0, 1], "ids": [4, 5]}


def _tar_of_boxes() -> bytes:
    labels = json.dumps(_labels()).encode()
    return _tar({"a.png": picture("RGB", "PNG"), "a.json": labels, "é/b.png": picture("L", "PNG"), "é/b.json": labels})


def _tar_of_masks() -> bytes:
    return _tar({"a.png": picture("RGB", "PNG"), "a.mask.png": picture("classes", "PNG")})


def _tar_seeds() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "train-000000.tar"
        archive.write_bytes(_tar_of_boxes())
        write_index(archive.parent, [archive], {"cat": 3, "dog": 9})
        index = (archive.parent / "index.json").read_bytes()
    return {
        "boxes/train-0.tar": _tar_of_boxes(),
        "masks/train-0.tar": _tar_of_masks(),
        "indexed/train-000000.tar": _tar_of_boxes(),
        "indexed/index.json": index,
    }


def _mutate_tar(data: bytes, random: Random) -> bytes:
    return _mutate_json_or_text(data, random) if data[:1] == b"{" else mutate_tar(data, random)


def _read_tar(folder: Path, place: str) -> None:
    root = (folder / place).parent
    read = _read_masks if root.name == "masks" else _read_boxes
    read(root, place)


def _sample_seeds() -> dict[str, bytes]:
    return {"a.json": json.dumps(_labels()).encode()}


def _read_sample(folder: Path, place: str) -> None:
    """Put the mutated labels into an archive."""
    write(folder / "train-0.tar", _tar({"a.png": picture("RGB", "PNG"), "a.json": (folder / place).read_bytes()}))
    _read_boxes(folder, place)


KINDS: dict[str, Kind] = {
    "coco": Kind(_pictures("images/train/a.png", "images/train/b.png"), _coco_seeds, _mutate_json_or_text, _read_coco),
    "voc": Kind(_pictures("JPEGImages/a.png", "JPEGImages/b.png"), _voc_seeds, _mutate_xml, _read_boxes),
    "yolo": Kind(_pictures("images/train/a.png", "images/train/b.png"), _yolo_seeds, _mutate_text, _read_boxes),
    "yolo-list": Kind(_yolo_list_fixed, _yolo_list_seeds, _mutate_text, _read_boxes),
    "csv": Kind(_pictures("images/a.png", "images/b.png"), _csv_seeds, _mutate_text, _read_boxes),
    "pairs": Kind(_with_masks, _pair_seeds, _mutate_text, _read_masks),
    "names": Kind(_with_masks, _name_seeds, _mutate_text, _read_masks),
    "classes": Kind(_nothing, _config_seeds, _mutate_text, _read_config),
    "png": Kind(_nothing, _png_seeds, mutate_png, _read_picture),
    "jpeg": Kind(_nothing, _jpeg_seeds, mutate_jpeg, _read_picture),
    "tiff": Kind(_nothing, _tiff_seeds, mutate_tiff, _read_picture),
    "geotiff": Kind(_nothing, _geotiff_seeds, mutate_tiff, _read_picture),
    "mask": Kind(_pictures("a.png"), _mask_seeds, _mutate_mask, _read_mask),
    "tar": Kind(_nothing, _tar_seeds, _mutate_tar, _read_tar),
    "sample": Kind(_nothing, _sample_seeds, _mutate_json_or_text, _read_sample),
}
