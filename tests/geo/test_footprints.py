import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from densenet_suite.errors import DataError, MissingExtraError
from densenet_suite.geo.footprints import blocks, default_block, gaps, overlaps, read_footprints, too_near


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
    tiles = read_footprints(paths)

    assert too_near(tiles, ["train", "train", "val", "test"], ("test", "val", "train"), 0) == [2]
    assert too_near(tiles, ["train", "val", "val", "val"], ("val", "train"), 0) == [0]
    np.testing.assert_allclose(overlaps(tiles[0], tiles), [100, 40, 0, 0], rtol=0.01)


@pytest.mark.parametrize("side", [100, 10_000])
def test_tiles_of_a_grid_touch_only_wherever_north_of_the_grid_points(tmp_path, side):
    """Far from the middle of its zone a grid is turned against the parallels, here by two degrees."""
    paths = [
        tile(tmp_path / f"{i}-{j}.tif", 690_000 + side * i, 5_700_000 + side * j, side=side)
        for i in range(3)
        for j in range(3)
    ]
    tiles = read_footprints(paths)

    for one in tiles:
        assert (overlaps(one, tiles) > 0).sum() == 1  # itself
    splits = ["val", "test", "train"] * 3
    assert too_near(tiles, splits, ("test", "val", "train"), 0) == []
    assert too_near(tiles, splits, ("test", "val", "train"), side / 10) == [0, 2, 3, 5, 6, 8]


def test_gaps_of_turned_tiles_are_those_of_their_outlines():
    """Against distances of points along the outlines, at the equator, where a degree is as long both ways."""
    rng = np.random.default_rng(0)
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2

    def turned(angle, middle):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return (square @ turn.T + middle) * 1e-3

    def outline(corners):
        along = np.linspace(0, 1, 300, endpoint=False)[:, None]
        return np.concatenate([a + along * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])

    one = turned(0.3, (0, 0))
    others = np.array(
        [turned(angle, way) for angle, way in zip(rng.uniform(0, 3, 60), rng.normal(0, 1.5, (60, 2)), strict=True)]
    )
    found = gaps(one, others, within=np.inf)
    for other, gap in zip(others, found, strict=True):
        ways = np.linalg.norm(outline(one)[:, None] - outline(other)[None], axis=-1) * 111_320
        if gap > 0:
            assert gap == pytest.approx(ways.min(), abs=0.5)
        else:
            assert ways.min() < 0.5 or gap < -0.5
    assert (found > 0).any()
    assert (found < 0).any()


def test_tiles_on_both_sides_of_the_180th_meridian_are_neighbours(tmp_path):
    (east,), (north,) = transform("EPSG:4326", "EPSG:32601", [-180], [-17])
    tiles = read_footprints(
        [tile(tmp_path / f"{way}.tif", east + way, 10_000_000 + north, epsg=32701) for way in (-150, -50, 50, 5000)]
    )

    np.testing.assert_allclose(gaps(tiles[1], tiles, within=1e6), [0, -100, 0, 4950], rtol=0.002, atol=0.01)
    assert too_near(tiles, ["train", "val", "train", "train"], ("val", "train"), 10) == [0, 2]


def test_what_was_put_aside_puts_nothing_else_aside(row):
    splits = ["test", "val", "train", *["train"] * 9]

    # the val tile touches the test tile and goes; the first train tile is 100 m from test and has no val tile beside it
    assert too_near(row, splits, ("test", "val", "train"), 80) == [1]


def test_a_block_holds_the_tiles_of_a_square(tmp_path):
    paths = [
        tile(tmp_path / f"{i}-{j}.tif", 500_000 + 100 * i, 5_700_000 + 100 * j) for i in range(12) for j in range(12)
    ]
    tiles = read_footprints(paths)
    found = blocks(tiles, 400)

    sizes = {block: found.count(block) for block in set(found)}
    assert max(sizes.values()) <= 5 * 5
    assert 9 <= len(sizes) <= 20
    for block in sizes:
        corners = tiles[[i for i, each in enumerate(found) if each == block]].reshape(-1, 2)
        xs, ys = transform("EPSG:4326", "EPSG:32631", *zip(corners.min(0), corners.max(0), strict=True))
        assert max(xs[1] - xs[0], ys[1] - ys[0]) < 520


def test_tiles_of_different_projections_lie_where_they_lie(tmp_path):
    one = tile(tmp_path / "31.tif", 700_000, 5_700_000)
    (east,), (north,) = transform("EPSG:32631", "EPSG:32632", [700_000], [5_700_000])
    other = tile(tmp_path / "32.tif", east, north, epsg=32632)

    tiles = read_footprints([one, other])
    np.testing.assert_allclose(tiles[0], tiles[1], atol=2e-4)
    assert too_near(tiles, ["train", "val"], ("val", "train"), 0) == [0]


def test_a_picture_without_a_place_is_refused(tmp_path):
    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8",
        transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as file:  # fmt: skip
        file.write(np.zeros((1, 4, 4), np.uint8))
    own = rasterio.CRS.from_wkt('LOCAL_CS["a building site",UNIT["metre",1]]')
    with rasterio.open(
        tmp_path / "site.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8",
        transform=rasterio.Affine(1, 0, 5, 0, -1, 5), crs=own,
    ) as file:  # fmt: skip
        file.write(np.zeros((1, 4, 4), np.uint8))
    for path in (tmp_path / "plain.tif", tmp_path / "photo.png", tmp_path / "site.tif"):
        with pytest.raises(DataError, match=r"does not say where on the ground it lies .*\n  hint: .*--by scene"):
            read_footprints([path])


def test_without_rasterio_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("densenet_suite.geo.footprints.is_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"densenet-suite\[geo\]"):
        read_footprints([tmp_path / "a.tif"])
