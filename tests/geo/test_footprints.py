import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.geo.footprints import blocks, default_block, read_footprints, too_near


def tile(path, east, north, epsg=32631, side=100, pixels=10):
    """Write a tile of `side` metres, by its lower left corner."""
    place = rasterio.Affine(side / pixels, 0, east, 0, -side / pixels, north + side)
    profile = {"driver": "GTiff", "height": pixels, "width": pixels, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=rasterio.CRS.from_epsg(epsg), transform=place, **profile) as file:
        file.write(np.zeros((1, pixels, pixels), np.uint8))
    return path


@pytest.fixture
def row(tmp_path):
    """Twelve tiles of 100 m from west to east that touch each other."""
    paths = [tile(tmp_path / f"{i:02d}.tif", 500_000 + 100 * i, 5_700_000) for i in range(12)]
    return read_footprints(paths)


def test_distances_are_metres(row):
    assert default_block(row) == pytest.approx(400, rel=0.02)
    splits = ["val"] + ["train"] * 11
    for buffer, aside in ((0, []), (50, [1]), (150, [1, 2]), (350, [1, 2, 3, 4])):
        assert too_near(row, splits, ("test", "val", "train"), buffer) == aside


def test_tiles_that_overlap_are_put_aside_without_a_buffer(tmp_path):
    paths = [tile(tmp_path / f"{i}.tif", 500_000 + 60 * i, 5_700_000) for i in range(4)]
    bounds = read_footprints(paths)

    assert too_near(bounds, ["train", "train", "val", "test"], ("test", "val", "train"), 0) == [2]
    assert too_near(bounds, ["train", "val", "val", "val"], ("val", "train"), 0) == [0]


def test_what_was_put_aside_puts_nothing_else_aside(row):
    splits = ["test", "val", "train", *["train"] * 9]

    # the val tile touches the test tile and goes; the first train tile is 100 m from test and has no val tile beside it
    assert too_near(row, splits, ("test", "val", "train"), 80) == [1]


def test_a_block_holds_the_tiles_of_a_square(tmp_path):
    paths = [
        tile(tmp_path / f"{i}-{j}.tif", 500_000 + 100 * i, 5_700_000 + 100 * j) for i in range(12) for j in range(12)
    ]
    bounds = read_footprints(paths)
    found = blocks(bounds, 400)

    sizes = {block: found.count(block) for block in set(found)}
    assert max(sizes.values()) <= 5 * 5
    assert 9 <= len(sizes) <= 20
    for block in sizes:
        mine = bounds[[i for i, each in enumerate(found) if each == block]]
        west, south, east, north = mine[:, 0].min(), mine[:, 1].min(), mine[:, 2].max(), mine[:, 3].max()
        xs, ys = transform("EPSG:4326", "EPSG:32631", [west, east], [south, north])
        assert max(xs[1] - xs[0], ys[1] - ys[0]) < 520


def test_tiles_of_different_projections_lie_where_they_lie(tmp_path):
    one = tile(tmp_path / "31.tif", 700_000, 5_700_000)
    (east,), (north,) = transform("EPSG:32631", "EPSG:32632", [700_000], [5_700_000])
    other = tile(tmp_path / "32.tif", east, north, epsg=32632)

    bounds = read_footprints([one, other])
    np.testing.assert_allclose(bounds[0], bounds[1], atol=2e-4)
    assert too_near(bounds, ["train", "val"], ("val", "train"), 0) == [0]


def test_a_picture_without_a_place_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8",
        transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as file:  # fmt: skip
        file.write(np.zeros((1, 4, 4), np.uint8))
    for path in (tmp_path / "plain.tif", tmp_path / "photo.png"):
        with pytest.raises(DataError, match=r"does not say where on the ground it lies .*\n  hint: .*--by scene"):
            read_footprints([path])


def test_without_rasterio_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("densenet_suite.geo.footprints.is_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"densenet-suite\[geo\]"):
        read_footprints([tmp_path / "a.tif"])
