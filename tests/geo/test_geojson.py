import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.warp import transform

from densenet_suite.detection.geojson_boxes import read_geojson_boxes
from densenet_suite.detection.layout import find_split as find_boxes
from densenet_suite.errors import ConfigError, DataError, MissingExtraError
from densenet_suite.findings import Findings
from densenet_suite.geo.geojson import Shape, crosses_itself, read_geojson
from densenet_suite.geo.geojson_rasters import GeoJsonFiles, burn, read_shapes
from densenet_suite.segmentation.discover import find_codec
from densenet_suite.segmentation.layout import find_split, name_split
from densenet_suite.segmentation.reading import read_segmentation
from densenet_suite.verbs.dataset import recognise_task

UTM = rasterio.CRS.from_epsg(32631)
PLACE = rasterio.Affine(2, 0, 593_000, 0, -2, 5_747_000)  # pixels of 2 m


def ground(column, row):
    """East and north of a place in pixels."""
    return 593_000 + 2 * column, 5_747_000 - 2 * row


def raster(path, size=(40, 60), place=PLACE, crs=UTM):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=place, **profile) as file:
        file.write(np.full((3, *size), 100, np.uint8))
    return path


def box(x1, y1, x2, y2):
    """A ring around columns and rows of the raster, in degrees as GeoJSON has them."""
    corners = [ground(*point) for point in ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))]
    return [list(point) for point in zip(*transform(UTM, "EPSG:4326", *zip(*corners, strict=True)), strict=True)]


def feature(*rings, kind="Polygon", **properties):
    return {"type": "Feature", "properties": properties, "geometry": {"type": kind, "coordinates": list(rings)}}


def geojson(path, *features, **members):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features), **members}))
    return path


def dataset(root, *features, **members):
    raster(root / "images" / "train" / "x.tif")
    geojson(root / "labels" / "train" / "x.geojson", *features, **members)
    return root


def mask_of(root, split="train", **options):
    files = find_split(root, split)
    found = read_segmentation(split, files, find_codec(files, **options))
    return found, [scene.mask.decode().mask for scene in found.scenes]


def boxes_of(root, split="train"):
    return read_geojson_boxes(split, find_boxes(root, split))


def test_polygons_in_degrees_are_boxes_and_masks_in_pixels(tmp_path):
    root = dataset(
        tmp_path,
        feature(box(5, 10, 25, 30), label="roof"),
        feature(box(30, 2, 50, 12), **{"class": "pool", "name": "a"}),
    )

    found, (mask,) = mask_of(root)
    assert found.classes.names == ("background", "pool", "roof")
    expected = np.zeros((40, 60), np.uint8)
    expected[10:30, 5:25], expected[2:12, 30:50] = 2, 1
    np.testing.assert_array_equal(mask, expected)

    boxes = boxes_of(root)
    assert boxes.classes.names == ("pool", "roof")
    np.testing.assert_allclose(boxes.images[0].objects.boxes, [[5, 10, 25, 30], [30, 2, 50, 12]], atol=1e-4)
    assert boxes.images[0].objects.labels.tolist() == [1, 0]


def test_real_polygons_burn_to_the_masks_that_came_with_them(data_folder, tmp_path):
    source = data_folder("geotiff-samples")
    for name in ("atlanta_pan_uint16", "nebraska_3band_int16"):
        folder = tmp_path / name
        for kind, ending in (("images", "tif"), ("labels", "geojson")):
            (folder / kind).mkdir(parents=True)
            (folder / kind / f"{name}.{ending}").symlink_to(source / kind / f"{name}.{ending}")

        found, (mask,) = mask_of(folder)
        expected = np.array(Image.open(source / "masks" / f"{name}.png"))
        assert found.classes.names == ("background", "foreground")
        np.testing.assert_array_equal(mask, expected)
        # one names its coordinates; the other does not, and its numbers cannot be degrees
        assumed = [finding.check for finding in found.findings if finding.check == "crs-assumed"]
        assert assumed == ([] if name.startswith("atlanta") else ["crs-assumed"])


@pytest.mark.parametrize("name", ["EPSG:32631", "urn:ogc:def:crs:EPSG::32631", "urn:ogc:def:crs:OGC:1.3:CRS84"])
def test_older_files_name_their_coordinates(tmp_path, name):
    ring = box(5, 10, 25, 30)
    if "32631" in name:
        ring = [list(ground(*point)) for point in ((5, 10), (25, 10), (25, 30), (5, 30), (5, 10))]
    root = dataset(tmp_path, feature(ring), crs={"type": "name", "properties": {"name": name}})

    np.testing.assert_allclose(boxes_of(root).images[0].objects.boxes, [[5, 10, 25, 30]], atol=1e-4)


def test_holes_parts_and_what_lies_upon_another_are_respected(tmp_path):
    root = dataset(
        tmp_path,
        feature(box(10, 10, 12, 12), label="b"),
        feature(box(0, 0, 30, 30), box(20, 20, 25, 25), label="a"),
        feature([box(40, 0, 45, 5)], [box(50, 30, 55, 35)], kind="MultiPolygon", label="a"),
    )
    mask = mask_of(root)[1][0]

    expected = np.zeros((40, 60), np.uint8)
    expected[:30, :30], expected[20:25, 20:25], expected[10:12, 10:12] = 1, 0, 2
    expected[:5, 40:45] = expected[30:35, 50:55] = 1
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(boxes_of(root).images[0].objects.boxes[2], [40, 0, 55, 35], atol=1e-4)
    _, (layers,) = mask_of(root, multilabel=True)
    np.testing.assert_array_equal(layers[0], np.where(expected == 2, 1, expected == 1))
    np.testing.assert_array_equal(layers[1], expected == 2)


def test_a_pixel_belongs_to_the_polygon_that_its_centre_lies_in(tmp_path):
    _, (mask,) = mask_of(dataset(tmp_path, feature(box(5.6, 10.4, 25.6, 30.4))))

    expected = np.zeros((40, 60), np.uint8)
    expected[10:30, 6:26] = 1
    np.testing.assert_array_equal(mask, expected)


def test_threads_paint_without_warnings_of_rasters_that_lie_nowhere():
    shape = Shape("a", ((np.array([[2, 2], [9, 2], [9, 9], [2, 9], [2, 2]], float),),), "feature 1")
    with ThreadPoolExecutor(8) as pool:
        masks = list(pool.map(lambda _: burn([(1, shape)], (12, 12)), range(400)))
    assert {int(mask.sum()) for mask in masks} == {49}


@pytest.mark.parametrize("read", [mask_of, boxes_of])
def test_features_without_a_class_where_others_have_one_stop_a_run(tmp_path, read):
    root = dataset(tmp_path, feature(box(5, 10, 25, 30), label="roof"), feature(box(30, 2, 50, 12), height=3))
    with pytest.raises(DataError, match=r"has none of the properties .*, as others have"):
        read(root)


def test_one_file_serves_all_images_and_what_is_on_none_is_counted(tmp_path):
    raster(tmp_path / "images" / "train" / "a.tif")
    raster(tmp_path / "images" / "train" / "b.tif", place=rasterio.Affine(2, 0, 593_100, 0, -2, 5_747_000))
    geojson(
        tmp_path / "train.geojson",
        feature(box(5, 5, 15, 15)),
        feature(box(45, 5, 70, 15)),
        feature(box(300, 5, 310, 15)),
    )

    found, masks = mask_of(tmp_path)
    assert [mask.sum() for mask in masks] == [10 * 10 + 15 * 10, 20 * 10]
    assert {finding.check: finding.count for finding in found.findings} == {"polygon-outside": 1, "polygon-clipped": 2}
    boxes = boxes_of(tmp_path)
    np.testing.assert_allclose(boxes.images[1].objects.boxes, [[-5, 5, 20, 15]], atol=1e-4)


def test_a_polygon_outside_its_own_image_is_dropped_and_images_without_file_are_empty(tmp_path):
    root = dataset(tmp_path, feature(box(5, 5, 15, 15)), feature(box(100, 5, 110, 15)))
    raster(root / "images" / "train" / "empty.tif")
    geojson(root / "labels" / "train" / "other.geojson", feature(box(0, 0, 1, 1)))

    found, masks = mask_of(root)
    assert sorted(mask.sum() for mask in masks) == [0, 100]
    checks = {finding.check: str(finding) for finding in found.findings}
    assert checks["polygon-outside"] == "x.geojson: features[1] lies outside x.tif and is dropped"
    assert "empty.tif has no GeoJSON file" in checks["image-without-labels"]
    assert "other.geojson is of no image" in checks["labels-without-image"]
    assert len(boxes_of(root).images) == 2


SQUARE = [[2.0, 51.0], [2.001, 51.0], [2.001, 51.001], [2.0, 51.0]]
FAULTS = {
    "polygon-numbers": [
        feature([[2, 51], [float("nan"), 51], [2, 52], [2, 51]]),
        feature([[2, 51], ["x", 51], [2, 52]]),
        feature([[2, 51], [2], [2, 52]]),
        feature([[2, 51], [1e400, 51], [2, 52]]),
        feature(5),
    ],
    "polygon-points": [feature([[2, 51], [2, 52], [2, 51]]), feature([])],
    "polygon-empty": [feature(), feature(kind="MultiPolygon")],
    "not-a-polygon": [feature(kind="Point"), {"type": "Feature", "geometry": None}, 7, {"type": "Topology"}],
}


@pytest.mark.parametrize(("check", "fault"), [(check, fault) for check, faults in FAULTS.items() for fault in faults])
def test_what_is_no_polygon_stops_a_run_with_the_number_of_its_feature(tmp_path, check, fault):
    path = geojson(tmp_path / "x.geojson", feature(SQUARE), fault)
    findings = Findings(str(path))

    assert len(read_geojson(path, findings).shapes) == 1
    assert [finding.check for finding in findings] == [check]
    assert "x.geojson: features[1]" in str(next(iter(findings)))
    with pytest.raises(DataError):
        findings.raise_errors()


def test_open_rings_and_crossing_lines_are_counted(tmp_path):
    bow = [[2, 51], [2.01, 51.01], [2.01, 51], [2, 51.01], [2, 51]]
    path = geojson(tmp_path / "x.geojson", feature(SQUARE[:-1]), feature(bow))
    findings = Findings(str(path))

    assert len(read_geojson(path, findings).shapes) == 2
    assert [(finding.check, str(finding).split(" has ")[0]) for finding in findings] == [
        ("ring-open", "x.geojson: features[0]"),
        ("polygon-crosses", "x.geojson: features[1]"),
    ]
    findings.raise_errors()


def test_crossings_are_those_that_a_search_of_all_pairs_finds():
    def slowly(ring):
        def turn(a, b, c):
            return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

        sides = list(zip(ring[:-1].tolist(), ring[1:].tolist(), strict=True))
        return any(
            turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
            for i, (a, b) in enumerate(sides)
            for c, d in sides[i + 1 :]
        )

    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        ring = rng.random((int(rng.integers(3, 8)), 2))
        ring = np.concatenate([ring, ring[:1]])
        found.append(crosses_itself(ring))
        assert found[-1] == slowly(ring)
    assert 10 < sum(found) < 50


def test_files_that_are_no_geojson_are_told_as_such(tmp_path):
    for name, content, message in (
        ("text", "polygons", r"no valid JSON: .*text\.geojson:1"),
        ("list", "[]", "GeoJSON is no object"),
        ("features", '{"type": "FeatureCollection", "features": 5}', "has no list of features"),
        ("deep", "[" * 100_000, "cannot be read|no valid JSON"),
        ("crs", '{"features": [], "type": "FeatureCollection", "crs": {"properties": {"name": "moon"}}}', "'moon' is"),
        ("link", '{"type": "FeatureCollection", "features": [], "crs": "EPSG:4326"}', "crs has no name"),
    ):  # fmt: skip
        path = tmp_path / f"{name}.geojson"
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            read_geojson(path, Findings("x"))


def test_a_run_is_told_of_files_rasters_and_classes_that_do_not_fit(tmp_path):
    root = dataset(tmp_path, feature(box(5, 5, 15, 15), label="roof"), feature(box(20, 5, 25, 15)))
    raster(root / "images" / "train" / "nowhere.tif", crs=None)
    raster(root / "images" / "train" / "bad.tif")
    geojson(root / "labels" / "train" / "nowhere.geojson", feature(box(5, 5, 15, 15), label="roof"))
    (root / "labels" / "train" / "bad.geojson").write_text("{")

    for read in (mask_of, boxes_of):
        with pytest.raises(DataError) as caught:
            read(root)
        for what in ("nowhere.tif does not say where on the ground", "no valid JSON"):
            assert what in str(caught.value)
    for name in ("nowhere", "bad"):
        (root / "images" / "train" / f"{name}.tif").unlink()
        (root / "labels" / "train" / f"{name}.geojson").unlink()
    with pytest.raises(DataError, match=r"x\.geojson: features\[1\] .*has none of the properties class, label, name"):
        boxes_of(root)
    with pytest.raises(DataError, match=r"x\.geojson: features\[1\] has none of the properties class, label, name"):
        mask_of(root)


def test_classes_of_another_split_are_matched_by_name(tmp_path):
    root = dataset(tmp_path, feature(box(5, 5, 15, 15), label="roof"), feature(box(20, 5, 25, 15), label="pool"))
    raster(root / "images" / "val" / "y.tif")
    geojson(root / "labels" / "val.geojson", feature(box(5, 5, 15, 15), label="rooof"))
    files = find_split(root, "train")

    assert find_split(root, "val") == GeoJsonFiles(root / "labels" / "val.geojson", root / "images" / "val")
    assert name_split(root, "val", "images/val", "labels/val.geojson") == find_split(root, "val")
    with pytest.raises(DataError, match=r"val\.geojson: features\[0\] is of 'rooof'(.|\n)*did you mean roof"):
        read_segmentation("val", find_split(root, "val"), find_codec(files))
    with pytest.raises(DataError, match="rooof"):
        read_geojson_boxes("val", find_boxes(root, "val"), boxes_of(root).classes)
    with pytest.raises(ConfigError, match="those of GeoJSON the properties of its features"):
        find_codec(files, classes={"roof": 1, "pool": 2})


def test_a_folder_of_polygons_has_to_be_told_what_it_is_for(tmp_path):
    with pytest.raises(DataError, match=r"holds boxes \(GeoJSON.*and masks \(GeoJSON(.|\n)*--task"):
        recognise_task(dataset(tmp_path, feature(box(5, 5, 15, 15))))


def test_polygons_without_rasterio_name_the_extra(tmp_path, monkeypatch):
    root = dataset(tmp_path, feature(box(5, 5, 15, 15)))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.setattr("densenet_suite.geo.geojson_rasters.is_installed", lambda package: False)

    with pytest.raises(MissingExtraError, match=r"densenet-suite\[geo\]"):
        read_shapes(find_split(root, "train"), Findings("x"))
