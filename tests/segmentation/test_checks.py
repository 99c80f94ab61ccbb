"""Checks of masks, on masks of which each shows one thing."""

import numpy as np
import pytest
from PIL import Image

from densenet_suite.segmentation.checks import check_crops, check_masks
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.layout import find_split
from densenet_suite.segmentation.reading import read_segmentation

TABLE = {"ground": 0, "thing": 1, "line": 2}


def read(root, masks, table=TABLE, split="train", suffix="png", sizes=None):
    for folder in ("images", "masks"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    for i, mask in enumerate(masks):
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask.astype(np.uint8))
        mask.save(root / "masks" / split / f"{i}.{suffix}")
        Image.new("RGB", mask.size, (9, 99, 199)).save(root / "images" / split / f"{i}.png")
    files = find_split(root, split)
    return read_segmentation(split, files, find_codec(files, classes=table))


def found(*splits) -> dict:
    return {(split.name, finding.check): finding for split in splits for finding in split.findings}


@pytest.fixture
def whole() -> np.ndarray:
    mask = np.zeros((64, 64))
    mask[10:40, 10:40] = 1
    mask[44:60, 44:60] = 2
    return mask


def test_masks_that_are_well_give_nothing(tmp_path, whole):
    train = read(tmp_path, [whole, whole.T])
    check_masks({"train": train})
    assert check_crops({"train": train}, (32, 32), 0.5) == {
        "crop": [32, 32],
        "scale": 0.5,
        "image_covered_by_crop": 1.0,
        "class_shares": {
            "ground": pytest.approx(1 - (900 + 256) / 4096, abs=1e-6),
            "thing": pytest.approx(900 / 4096, abs=1e-6),
            "line": pytest.approx(256 / 4096, abs=1e-6),
        },
    }
    assert found(train) == {}


@pytest.mark.parametrize(
    ("width", "scale", "vanishes"), [(3, 0.25, True), (6, 0.25, False), (1, 0.5, True), (1, 1.0, False)]
)
def test_what_is_thinner_than_a_pixel_of_the_network_is_told(tmp_path, width, scale, vanishes):
    mask = np.zeros((64, 64))
    mask[:, 20 : 20 + width] = 2
    mask[5:25, 40:60] = 1
    train = read(tmp_path, [mask])
    check_crops({"train": train}, (8, 8), scale)
    assert (("train", "class-thin") in found(train)) == vanishes
    if vanishes:
        assert found(train)["train", "class-thin"].examples[0].startswith("class 'line': 100 % of its pixels")


def test_masks_of_0_and_255_whose_255_is_no_class_are_told_with_the_table(tmp_path):
    mask = np.zeros((32, 32))
    mask[5:20, 5:20] = 255
    train = read(tmp_path, [mask], {"background": 0, "foreground": 1})
    check_masks({"train": train})
    finding = found(train)["train", "mask-one-class"]
    assert "data.classes={background: 0, foreground: 255}" in finding.hint
    assert "22.0 %" in finding.examples[0]


def test_mostly_ignored_masks_are_told(tmp_path, whole):
    mask = np.full((64, 64), 255)
    mask[:20] = whole[:20]
    train = read(tmp_path, [mask, np.full((64, 64), 255)])
    check_masks({"train": train})
    assert found(train)["train", "mask-only-ignored"].count == 1
    assert "84 % of the pixels are ignored" in found(train)["train", "mask-mostly-ignored"].examples[0]


def test_a_jpeg_is_told_even_where_all_its_values_are_of_classes(tmp_path):
    train = read(tmp_path, [np.zeros((32, 32))], suffix="jpg")
    check_masks({"train": train})
    assert found(train)["train", "mask-lossy"].severity == "warning"


def test_palettes_are_noted_with_how_they_are_read(tmp_path, whole):
    mask = Image.fromarray(whole.astype(np.uint8)).convert("P")
    mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [0] * 759)
    by_number = read(tmp_path / "a", [mask])
    by_colour = read(tmp_path / "b", [mask], {"ground": "#000000", "thing": "#FF0000", "line": "#00FF00"})
    for split, kind in ((by_number, "numbers, not the colours"), (by_colour, "colours of the palette")):
        check_masks({"train": split})
        assert kind in found(split)["train", "mask-palette"].hint
        assert (split.pixel_counts == by_number.pixel_counts).all()


def test_classes_of_val_alone_and_rare_ones_are_told(tmp_path, whole):
    dot = np.zeros((64, 64))
    dot[3, 3:5] = 1
    train, val = read(tmp_path, [dot]), read(tmp_path, [whole], split="val")
    check_masks({"train": train, "val": val})
    assert found(train)["train", "class-rare"].examples == ["class 'thing' has 0.049 % of the pixels"]
    assert found(val)["val", "class-not-in-train"].examples == ["class 'line' has 256 pixels here and none to train on"]


def test_images_smaller_than_the_crop_are_noted(tmp_path, whole):
    train = read(tmp_path, [whole])
    check_crops({"train": train}, (128, 64), 1.0)
    assert "is 64x64 to the network, the crop is 64x128" in found(train)["train", "image-smaller-than-crop"].examples[0]
