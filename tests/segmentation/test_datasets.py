"""Splits of labelled scenes: what is read, what is counted, what is refused."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from densenet_suite.errors import DataError
from densenet_suite.segmentation.datasets import hold_out
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.layout import find_split, name_split
from densenet_suite.segmentation.masks import MaskCodec
from densenet_suite.segmentation.reading import count_classes, read_scene, read_segmentation
from densenet_suite.segmentation.structures import MaskClasses

TABLE = {"ground": 0, "road": 1, "car": 2}
CODEC = MaskCodec.create(TABLE)


@pytest.fixture
def write(tmp_path):
    """Write images and masks of a split, by name; None leaves one out."""

    def write(scenes, split="train"):
        for name, (image, mask) in scenes.items():
            for kind, array in (("images", image), ("masks", mask)):
                if array is not None:
                    path = tmp_path / kind / split / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.asarray(array, np.uint8)).save(path)
        return tmp_path

    return write


def _image(height=2, width=3):
    return np.arange(height * width * 3).reshape(height, width, 3)


def _read(root, split="train", codec=CODEC, **options):
    return read_segmentation(split, find_split(root, split, **options), codec)


def _found(dataset):
    return {finding.check: (finding.severity, str(finding)) for finding in dataset.findings}


def _problem(root, **options):
    with pytest.raises(DataError) as caught:
        _read(root, **options)
    (problem,) = caught.value.problems
    return problem


def test_scenes_have_the_size_depth_and_bands_of_their_images(write):
    root = write({"b.png": (_image(), np.zeros((2, 3))), "a.png": (_image(4, 5)[..., 0], np.ones((4, 5)))})
    scenes = _read(root).scenes
    assert [(s.path.name, s.height, s.width, s.bands, s.dtype) for s in scenes] == [
        ("a.png", 4, 5, 1, "uint8"),
        ("b.png", 2, 3, 3, "uint8"),
    ]


def test_pixels_are_counted(write):
    root = write({"a.png": (_image(), [[0, 1, 1], [255, 255, 0]]), "b.png": (_image(), [[2, 1, 1], [1, 1, 0]])})
    found = _read(root)
    assert found.pixel_counts.tolist() == [[2, 2, 0], [1, 4, 1]]
    assert found.known_counts.tolist() == [[4, 4, 4], [6, 6, 6]]
    assert found.report() == {
        "split": "train",
        "source": str(root / "masks" / "train"),
        "images": 2,
        "pixels": 12,
        "ignored_share": pytest.approx(2 / 12),
        "bands": [3],
        "dtypes": ["uint8"],
        "multilabel": False,
        "classes": {
            "ground": {"pixels": 3, "images": 2},
            "road": {"pixels": 6, "images": 2},
            "car": {"pixels": 1, "images": 1},
        },
        "findings": [],
        "damaged": [],
    }


def test_a_line_says_what_there_is(write):
    found = _read(write({"a.png": (_image(), [[0, 1, 1], [255, 255, 0]])}))
    assert found.describe() == "1 images of 3 bands, uint8; ground 50.0 %, road 50.0 %, car 0.0 %"


def test_overlapping_classes_are_counted_one_by_one():
    classes = MaskClasses(("a", "b"), ((1, 1, 1), (2, 2, 2)), multilabel=True)
    pixels, known = count_classes(np.array([[[0, 1, 1]], [[255, 0, 1]]], np.uint8), classes)
    assert (pixels.tolist(), known.tolist()) == ([2, 1], [3, 2])


def test_counts_are_those_of_a_plain_loop():
    mask = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (40, 50))
    pixels, known = count_classes(mask, CODEC.classes)
    assert pixels.tolist() == [int((mask == i).sum()) for i in range(3)]
    assert known.tolist() == [int((mask != 255).sum())] * 3


def test_a_scene_is_read_as_the_files_have_it(write):
    mask = np.array([[0, 1, 1], [255, 2, 0]])
    root = write({"a.png": (_image(), mask), "b.png": (_image()[..., 0], mask)})
    colour, grey = _read(root).scenes
    image, found = read_scene(colour)
    assert (image == _image()).all()
    assert (found == mask).all()
    assert (image.dtype, found.dtype) == (np.uint8, np.uint8)
    assert [read_scene(grey, bands)[0].shape[2] for bands in (None, 1, 3)] == [1, 1, 3]


def test_scenes_go_to_other_processes(write):
    (scene,) = _read(write({"a.png": (_image(), np.zeros((2, 3)))})).scenes
    assert pickle.loads(pickle.dumps(scene)) == scene


def test_pixels_without_data_are_ignored(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    place = {"driver": "GTiff", "height": 2, "width": 3, "transform": (2, 0, 5, 0, -2, 6)}
    with rasterio.open(tmp_path / "images/a.tif", "w", count=5, dtype="int16", nodata=-9, **place) as file:
        pixels = np.arange(30, dtype=np.int16).reshape(5, 2, 3)
        pixels[:, 0, 1] = -9
        file.write(pixels)
    Image.fromarray(np.ones((2, 3), np.uint8)).save(tmp_path / "masks/a.png")
    (scene,) = _read(tmp_path).scenes
    assert (scene.bands, scene.dtype) == (5, "int16")
    image, mask = read_scene(scene)
    assert image.shape == (2, 3, 5)
    assert mask.tolist() == [[1, 255, 1], [1, 1, 1]]


def test_folders_of_classes_keep_the_order_of_the_classes(tmp_path, write):
    write({"a.png": (_image(), None)})
    for name, value in (("x", 0), ("y", 255)):
        (tmp_path / "masks/train" / name).mkdir(parents=True)
        Image.fromarray(np.full((2, 3), value, np.uint8)).save(tmp_path / "masks/train" / name / "a.png")
    codec = MaskCodec.create({"y": 255, "x": 255}, multilabel=True)
    found = _read(tmp_path, codec=codec, multilabel=True)
    assert found.pixel_counts.tolist() == [[6, 0]]
    assert read_scene(found.scenes[0])[1].shape == (2, 2, 3)


class TestFaults:
    def test_images_without_mask_are_named(self, write):
        scenes = {f"{i}.png": (_image(), None) for i in range(7)}
        problem = _problem(write({**scenes, "x.png": (_image(), np.zeros((2, 3)))}))
        assert problem.what == "7 images have no mask: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more"

    def test_sizes_that_differ_are_named_with_both_files(self, write):
        root = write({"a.png": (_image(), np.zeros((2, 2)))})
        problem = _problem(root)
        assert problem.what == (
            f"image {root / 'images/train/a.png'} is 3x2 (width x height), its mask {root / 'masks/train/a.png'} is 2x2"
        )
        assert problem.hint == "masks are never resized: export this one in the size of its image"

    def test_a_turned_image_is_pointed_out(self, tmp_path, write):
        write({"a.png": (None, np.zeros((2, 3)))})
        (tmp_path / "images/train").mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(_image().astype(np.uint8)).save(tmp_path / "images/train/a.jpg", exif=exif)
        problem = _problem(tmp_path)
        assert "a.jpg is 2x3 (width x height)" in problem.what
        assert problem.hint == "the image's EXIF orientation turns it, and the mask must be that of the upright picture"

    def test_faults_of_one_kind_are_counted(self, write):
        scenes = {name: (_image(), np.full((2, 3), 9)) for name in ("a.png", "b.png", "c.png")}
        root = write(scenes)
        problem = _problem(root)
        assert problem.what == (
            "mask holds 9 (6 pixels), of no class; the first at row 0, column 0: "
            f"{root / 'masks/train/a.png'} and 2 more"
        )

    def test_all_kinds_of_faults_are_shown_at_once(self, write, tmp_path):
        write(
            {
                "a.png": (_image(), np.full((2, 3), 9)),
                "b.png": (_image(), np.zeros((3, 3))),
                "c.png": (_image(), None),
                "d.png": (_image(), np.zeros((2, 3))),
                "e.png": (_image(), np.zeros((2, 3))),
            }
        )
        (tmp_path / "images/train/d.png").write_bytes(b"")
        (tmp_path / "masks/train/e.png").write_bytes(b"")
        with pytest.raises(DataError) as caught:
            _read(tmp_path)
        assert [problem.what.split(":")[0] for problem in caught.value.problems] == [
            "1 image has no mask",
            "image file is empty",
            "mask holds 9 (6 pixels), of no class; the first at row 0, column 0",
            f"image {tmp_path / 'images/train/b.png'} is 3x2 (width x height), "
            f"its mask {tmp_path / 'masks/train/b.png'} is 3x3",
            "image file is empty",
        ]

    def test_missing_files_of_a_table_are_named(self, tmp_path):
        (tmp_path / "train.csv").write_text("image,mask\na.png,b.png\n")
        assert _problem(tmp_path).what == f"image file does not exist: {tmp_path / 'a.png'}"

    def test_an_empty_split_is_refused(self, tmp_path):
        (tmp_path / "images").mkdir()
        (tmp_path / "masks").mkdir()
        assert _problem(tmp_path).what == "the train split has no image with a mask"

    def test_images_of_several_depths_are_refused(self, write, tmp_path):
        write({"a.png": (_image(), np.zeros((2, 3))), "b.png": (None, np.zeros((2, 3)))})
        Image.fromarray(np.zeros((2, 3), np.uint16)).save(tmp_path / "images/train/b.png")
        assert _problem(tmp_path).what == "images differ in depth: a.png is uint8, b.png is uint16"

    def test_images_of_several_bands_are_refused(self, write, tmp_path):
        rasterio = pytest.importorskip("rasterio")
        write({"a.png": (_image(), np.zeros((2, 3))), "b.png": (None, np.zeros((2, 3)))})
        with rasterio.open(
            tmp_path / "images/train/b.tif", "w", driver="GTiff", height=2, width=3, count=4, dtype="uint8",
            transform=(2, 0, 5, 0, -2, 6), photometric="minisblack",
        ) as file:  # fmt: skip
            file.write(np.zeros((4, 2, 3), np.uint8))
        assert _problem(tmp_path).what == "images differ in bands: a.png has 3, b.tif has 4"

    @pytest.mark.parametrize(("kind", "what"), [("images", "picture"), ("masks", "mask")])
    def test_files_that_change_later_are_refused(self, write, tmp_path, kind, what):
        (scene,) = _read(write({"a.png": (_image(), np.zeros((2, 3)))})).scenes
        path = tmp_path / kind / "train/a.png"
        Image.fromarray(np.zeros((4, 3), np.uint8)).save(path)
        with pytest.raises(DataError, match=f"the {what} has another size than when training began") as caught:
            read_scene(scene)
        assert caught.value.problems[0].where == str(path)


class TestWarnings:
    def test_masks_without_image_are_counted(self, write):
        scenes = {"a.png": (_image(), [[0, 1, 2]] * 2), "b.png": (None, np.zeros((2, 3)))}
        expected = ("warning", "mask b.png belongs to no image")
        assert _found(_read(write(scenes))) == {"mask-without-image": expected}

    def test_classes_without_a_pixel_cannot_be_learned(self, write):
        scenes = {"a.png": (_image(), np.zeros((2, 3)))}
        text = "class 'road' has no pixel in the training split: it cannot be learned and 1 more"
        assert _found(_read(write(scenes))) == {"class-absent": ("warning", text)}
        assert not _found(_read(write(scenes, "val"), "val"))

    def test_pixels_that_took_the_nearest_colour_are_counted(self, write):
        root = write({"a.png": (_image(), [[0, 3, 255], [250, 255, 255]])})
        found = _read(root, codec=MaskCodec.create({"a": 0, "b": 255}, nearest=True))
        text = f"2 pixels of {root / 'masks/train/a.png'} took the class of the nearest colour"
        assert _found(found) == {"nearest-colour": ("warning", text)}

    def test_images_that_exif_turns_are_counted(self, write, tmp_path):
        write({"a.png": (None, [[0, 1, 2]] * 2)})
        (tmp_path / "images/train").mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(_image().astype(np.uint8)).save(tmp_path / "images/train/a.jpg", exif=exif)
        text = "image a.jpg is turned by its EXIF orientation 3; its mask must be that of the upright picture"
        assert _found(_read(tmp_path)) == {"image-turned": ("warning", text)}


def _many(write, n=40):
    return _read(write({f"{i:03d}.png": (_image(), np.full((2, 3), i % 3)) for i in range(n)}))


def test_the_held_out_part_follows_from_the_names(write):
    whole = _many(write)
    train, val = hold_out(whole, 0.3)
    assert (train.name, val.name) == ("train", "val")
    assert {s.path for s in train.scenes} | {s.path for s in val.scenes} == {s.path for s in whole.scenes}
    assert len(train) + len(val) == 40
    assert 4 < len(val) < 20
    assert {s.path for s in hold_out(whole, 0.1)[1].scenes} <= {s.path for s in val.scenes}
    for part in (train, val):
        expected = [[6 * (int(s.path.stem) % 3 == c) for c in range(3)] for s in part.scenes]
        assert part.pixel_counts.tolist() == expected
        assert part.known_counts.tolist() == [[6] * 3] * len(part)


def test_neither_part_is_empty(write):
    assert [len(part) for part in hold_out(_many(write, 2), 0.0)] == [1, 1]
    assert [len(part) for part in hold_out(_many(write, 2), 1.0)] == [1, 1]


def test_a_class_that_is_held_out_altogether_is_noted(write):
    whole = _many(write, 3)
    train, _ = hold_out(whole, 0.0)
    (found,) = _found(train).values()
    assert found[1].endswith("has no pixel in the training split: it cannot be learned")


class TestBadInputs:
    def _read(self, data_folder, case):
        root = data_folder("bad-inputs") / "seg" / case
        codec = MaskCodec.create({str(i): i for i in range(11)}, ignore=[11])
        return read_segmentation("train", find_split(root, "train"), codec)

    def test_ok(self, data_folder):
        found = self._read(data_folder, "ok")
        assert len(found) == 1
        assert 0 < found.report()["ignored_share"] < 0.5

    @pytest.mark.parametrize(
        ("case", "parts"),
        [
            ("size_mismatch", ("images/frame.jpg is 240x180", "masks/frame.png is 220x167")),
            ("out_of_range_id", ("mask holds 57 (800 pixels)", "row 40, column 40", "masks/frame.png")),
            ("rgb_mask", ("mask is in colours where numbers are expected", "#804080", "masks/frame.png")),
            ("missing_mask", ("1 image has no mask: frame.jpg",)),
        ],
    )
    def test_faults(self, data_folder, case, parts):
        with pytest.raises(DataError) as caught:
            self._read(data_folder, case)
        (problem,) = caught.value.problems
        assert all(part in problem.what for part in parts)

    def test_colours_with_a_table(self, data_folder):
        root = data_folder("bad-inputs") / "seg" / "rgb_mask"
        table = {"sky": "#808080", "road": "#804080", "tree": "#808000"}
        files = find_split(root, "train")
        with pytest.raises(DataError, match=r"mask holds #000000 .* of no class"):
            read_segmentation("train", files, find_codec(files, classes=table))


class TestRealData:
    def test_every_pixel_is_counted(self, data_folder):
        root = data_folder("isbi-em")
        found = read_segmentation("val", find_split(root, "val"), find_codec(find_split(root, "train")))
        truth = [np.asarray(Image.open(path)) for path in sorted((root / "masks/val").glob("*.png"))]
        assert found.pixel_counts.tolist() == [[int((m == 0).sum()), int((m == 255).sum())] for m in truth]

    def test_void_is_no_class(self, data_folder):
        root = data_folder("camvid")
        names = [line.split()[1] for line in (root / "classes.txt").read_text().splitlines()]
        codec = MaskCodec.create({name: i for i, name in enumerate(names[:11])}, ignore=[11])
        found = read_segmentation("val", find_split(root, "val"), codec)
        assert len(found) == 101
        masks = [np.asarray(Image.open(path)) for path in (root / "masks/val").glob("*.png")]
        counts = sum(np.bincount(mask.ravel(), minlength=12) for mask in masks)
        assert found.pixel_counts.sum(0).tolist() == counts[:11].tolist()
        assert found.known_counts[:, 0].sum() == counts[:11].sum()

    def test_colours_and_numbers_count_alike(self, data_folder):
        root = data_folder("dubai-aerial")
        lines = [line.split() for line in (root / "classes.txt").read_text().splitlines()[:6]]
        colours = MaskCodec.create({name: colour for _, name, colour in lines}, ignore=["#000000"])
        numbers = MaskCodec.create({name: int(i) for i, name, _ in lines})
        by_colour = read_segmentation("val", name_split(root, "val", "images/val", "masks-colour/val"), colours)
        by_number = read_segmentation("val", find_split(root, "val"), numbers)
        assert by_colour.pixel_counts.tolist() == by_number.pixel_counts.tolist()
        assert by_colour.classes.colours[0] == (0xE2, 0xA9, 0x29)

    def test_polygons_are_read_and_counted(self, data_folder):
        root = data_folder("dsb2018-nuclei")
        files = name_split(root, "val", "images/val", "annotations/instances_val.json")
        found = read_segmentation("val", files, find_codec(files))
        assert len(found) == 10
        assert found.classes.names == ("background", "nucleus")
        assert found.report()["source"].endswith("instances_val.json")

    def test_masks_of_rasters(self, data_folder, tmp_path):
        pytest.importorskip("rasterio")
        root = data_folder("geotiff-samples")
        rows = "image,mask\nimages/{0}.tif,masks/{0}.png\n".format("atlanta_pan_uint16")
        (tmp_path / "train.csv").write_text(rows)
        for kind in ("images", "masks"):
            (tmp_path / kind).symlink_to(root / kind)
        files = find_split(tmp_path, "train")
        (scene,) = read_segmentation("train", files, find_codec(files)).scenes
        assert (scene.height, scene.width, scene.bands, scene.dtype) == (900, 900, 1, "uint16")
        image, mask = read_scene(scene)
        assert (image.shape, image.dtype, mask.shape) == ((900, 900, 1), np.float32, (900, 900))


def test_a_coco_file_is_a_split_like_others(tmp_path, write):
    write({"a.png": (_image(), None)})
    (tmp_path / "annotations").mkdir()
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
    image = {"id": 1, "file_name": "a.png"}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    files = find_split(tmp_path, "train")
    found = read_segmentation("train", files, find_codec(files))
    assert found.pixel_counts.tolist() == [[2, 4]]
    assert read_scene(found.scenes[0])[1].tolist() == [[1, 1, 0]] * 2
    assert pickle.loads(pickle.dumps(found.scenes)) == found.scenes
