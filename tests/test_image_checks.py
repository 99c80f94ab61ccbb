from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from densenet_suite.errors import DataError
from densenet_suite.findings import Findings
from densenet_suite.image_checks import check_images, look_at
from densenet_suite.picture_likeness import hash_distances
from densenet_suite.synthetic import write_synthetic


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    root = write_synthetic(tmp_path_factory.mktemp("pictures"), {"train": 16}, size=(96, 128))
    return sorted((root / "images" / "train").iterdir())


def checked(paths, same=True, **options):
    findings = {name: Findings(name, stops=False) for name in paths}
    summary = check_images(paths, findings, lambda a, b: same, **options)
    return {(name, f.check): f for name, found in findings.items() for f in found}, summary


def test_pictures_that_differ_give_nothing(pictures):
    found, summary = checked({"train": pictures[:10], "val": pictures[10:]})
    assert found == {}
    assert summary == {"images": 16, "decoded": 16}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_that_is_cut_off_is_damaged(pictures, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with Image.open(pictures[0]) as picture:
        picture.save(path)
    path.write_bytes(path.read_bytes()[:-600])
    found, _ = checked({"train": [path, pictures[1]]})
    assert "image file is damaged" in found["train", "image-damaged"].examples[0]
    assert str(path) in found["train", "image-damaged"].examples[0]


CHANGES = {
    "saved anew": lambda picture: picture,
    "smaller": lambda picture: picture.resize((77, 58)),
    "larger": lambda picture: picture.resize((300, 225)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "grey": lambda picture: picture.convert("L"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_that_was_changed_a_little_is_found_in_the_other_split(pictures, tmp_path, change):
    for i, path in enumerate(pictures[:6]):
        with Image.open(path) as picture:
            CHANGES[change](picture).save(tmp_path / f"{i}.jpg", quality=70)
    found, _ = checked({"train": pictures, "val": sorted(tmp_path.iterdir())})
    near = found["val", "image-nearly-in-two-splits"]
    assert near.count == 6
    assert f"0.jpg is nearly the same as {pictures[0].name} of the train split" in near.examples[0]


def test_the_same_picture_is_told_by_split_and_by_label(pictures, tmp_path):
    copies = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for copy in copies:
        copy.write_bytes(pictures[3].read_bytes())
    found, _ = checked({"train": [*pictures, copies[0]], "val": [copies[1]]}, same=False)
    assert found.keys() == {
        ("train", "image-copied"),
        ("train", "copies-labelled-differently"),
        ("val", "image-in-two-splits"),
        ("val", "copies-labelled-differently"),
    }
    found, _ = checked({"train": [*pictures, copies[0]], "val": [copies[1]]})
    assert found.keys() == {("train", "image-copied"), ("val", "image-in-two-splits")}


def test_transparency_that_hides_is_a_warning_and_one_that_does_not_a_note(pictures, tmp_path):
    with Image.open(pictures[0]) as picture:
        picture = picture.convert("RGBA")
    picture.save(tmp_path / "opaque.png")
    picture.putpixel((3, 3), (0, 0, 0, 7))
    picture.save(tmp_path / "hides.png")
    found, _ = checked({"train": [tmp_path / "opaque.png"], "val": [tmp_path / "hides.png"]})
    assert found["train", "image-alpha"].severity == "note"
    assert found["val", "image-transparent"].severity == "warning"


def test_grey_among_colours_is_noted_and_grey_alone_is_not(pictures, tmp_path):
    with Image.open(pictures[0]) as picture:
        picture.convert("L").save(tmp_path / "grey.png")
    assert ("train", "image-grey") in checked({"train": [tmp_path / "grey.png", pictures[1]]})[0]
    assert checked({"train": [tmp_path / "grey.png"]})[0] == {}


def test_a_picture_of_one_colour_is_told_and_is_like_no_other(tmp_path):
    for name, colour in (("a", 90), ("b", 91)):
        Image.new("RGB", (64, 64), (colour, 0, 0)).save(tmp_path / f"{name}.png")
    found, _ = checked({"train": [tmp_path / "a.png"], "val": [tmp_path / "b.png"]})
    assert found.keys() == {("train", "image-plain"), ("val", "image-plain")}


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_small_numbers_are_no_single_colour(tmp_path, dtype):
    values = np.random.default_rng(0).random((40, 50)) * (0.2 if dtype == np.float32 else 3)
    for name, pixels in {"field": values, "nothing": np.full_like(values, values.max())}.items():
        Image.fromarray(pixels.astype(dtype)).save(tmp_path / f"{name}.tif")
    found, _ = checked({"train": sorted(tmp_path.iterdir())})
    assert found["train", "image-plain"].count == 1
    assert "nothing.tif is of one colour" in found["train", "image-plain"].examples[0]


def test_of_many_pictures_a_part_evenly_spread_is_decoded_and_the_number_told(pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(pictures[0].read_bytes()[:2000])
    found, summary = checked({"train": [*pictures[:10], broken]}, limit=3)
    assert summary == {"images": 11, "decoded": 3}
    assert ("train", "image-damaged") in found  # the last one is always among them


def test_a_missing_file_is_an_error_not_a_crash(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        look_at(tmp_path / "none.jpg")


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_distances_of_hashes_are_the_bits_that_differ(first, second):
    found = hash_distances(np.array(first, np.uint64), np.array(second, np.uint64))
    expected = [[(a ^ b).bit_count() for b in second] for a in first]
    assert found.tolist() == expected


@pytest.mark.parametrize(("shift", "overlaps"), [(60, True), (100, False)])
def test_rasters_that_show_the_same_ground_are_found(tmp_path, shift, overlaps):
    rasterio = pytest.importorskip("rasterio")
    for name, left in (("a", 0), ("b", shift)):
        pixels = np.random.default_rng(left).integers(0, 3000, (2, 80, 100)).astype(np.uint16)
        with rasterio.open(
            tmp_path / f"{name}.tif",
            "w",
            driver="GTiff",
            height=80,
            width=100,
            count=2,
            dtype="uint16",
            crs="EPSG:32631",
            transform=rasterio.Affine(1, 0, 5e5 + left, 0, -1, 4e6),
        ) as file:
            file.write(pixels)
    found, _ = checked({"train": [tmp_path / "a.tif"], "val": [tmp_path / "b.tif"]})
    assert (("val", "ground-in-two-splits") in found) == overlaps
    if overlaps:
        (example,) = found["val", "ground-in-two-splits"].examples
        assert "b.tif shows ground of a.tif of the train split: they overlap by 40 m" in example
