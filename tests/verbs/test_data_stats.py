"""`data stats`: numbers held against those of the files, read by other means."""

import json

import numpy as np
import pytest
from PIL import Image
from scenes import write_coco

from densenet_suite import cli, data_stats
from densenet_suite.synthetic import MASK_CLASSES


def test_boxes_are_counted_as_the_file_has_them(synthetic, tmp_path):
    found = data_stats(synthetic, ["data.size=128"], task="detection", out=tmp_path).to_dict()
    content = json.loads((synthetic / "annotations" / "instances_train.json").read_text())
    train = found["splits"]["train"]
    boxes = np.array([annotation["bbox"] for annotation in content["annotations"]])
    sides = np.sqrt(boxes[:, 2] * boxes[:, 3])
    assert train["objects"] == len(boxes)
    assert train["object_sides"]["median"] == pytest.approx(np.median(sides), abs=0.02)
    scale = 128 / 96  # of pictures of 64x96
    assert train["object_sides_to_network"]["median"] == pytest.approx(scale * np.median(sides), rel=0.01)
    per_image = [sum(a["image_id"] == image["id"] for a in content["annotations"]) for image in content["images"]]
    assert train["objects_per_image"]["most"] == max(per_image)
    for category in content["categories"]:
        mine = [a for a in content["annotations"] if a["category_id"] == category["id"]]
        assert train["classes"][category["name"]] == {
            "objects": len(mine),
            "images": len({a["image_id"] for a in mine}),
        }
    assert train["aspect"] == dict.fromkeys(("least", "p5", "median", "p95", "most"), 1.5)
    assert json.loads((tmp_path / "stats.json").read_text()) == found


def test_bands_have_the_statistics_of_all_pixels(synthetic):
    found = data_stats(synthetic, task="detection").to_dict()["pixels"]
    pictures = []
    for path in sorted((synthetic / "images" / "train").iterdir()):
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture).reshape(-1, 3))
    pixels = np.concatenate(pictures).astype(float)
    np.testing.assert_allclose(found["mean"], pixels.mean(0))
    np.testing.assert_allclose(found["std"], pixels.std(0))
    assert found["images_read"] == found["images"] == 12


def test_pixels_without_data_are_left_out(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    for folder in ("images", "masks"):
        (tmp_path / folder / "train").mkdir(parents=True)
    values = np.random.default_rng(0).integers(200, 3000, (2, 32, 32)).astype(np.uint16)
    values[:, :8] = 0
    place = rasterio.Affine(1, 0, 5e5, 0, -1, 4e6)
    with rasterio.open(
        tmp_path / "images" / "train" / "a.tif", "w", driver="GTiff", height=32, width=32, count=2, dtype="uint16",
        crs="EPSG:32631", transform=place, nodata=0,
    ) as file:  # fmt: skip
        file.write(values)
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / "masks" / "train" / "a.png")
    found = data_stats(tmp_path, ["data.holdout=0"]).to_dict()["pixels"]
    np.testing.assert_allclose(found["mean"], values[:, 8:].reshape(2, -1).mean(1))
    assert found["pixels"] == 24 * 32


def test_masks_are_counted_in_pixels_and_images(synthetic):
    overrides = [f"data.classes={json.dumps(MASK_CLASSES)}"]
    found = data_stats(synthetic, overrides, task="segmentation").to_dict()["splits"]["val"]
    masks = []
    for path in sorted((synthetic / "masks" / "val").iterdir()):
        with Image.open(path) as mask:
            masks.append(np.asarray(mask))
    for name, value in MASK_CLASSES.items():
        counts = [(mask == value).sum() for mask in masks]
        assert found["classes"][name]["pixels"] == sum(counts)
        assert found["classes"][name]["images"] == np.count_nonzero(counts)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("detection", {"sizes.png", "classes.png", "objects_per_image.png", "object_sides.png"}),
        ("segmentation", {"sizes.png", "classes.png"}),
    ],
)
def test_figures_are_written(synthetic, tmp_path, task, names):
    found = data_stats(synthetic, task=task, out=tmp_path)
    assert {path.name for path in found.figures} == names
    for path in found.figures:
        with Image.open(path) as figure:
            assert np.asarray(figure.convert("L")).std() > 5


def test_the_command_prints_text_or_json(tmp_path, capsys):
    root = write_coco(tmp_path, [((64, 64), [{"bbox": [10, 10, 40, 40]}])] * 2)
    for options, beginning in (([], f"{root}: detection"), (["--json"], "{")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", "stats", str(root), "--task", "detection", "data.holdout=0", *options])
        assert not ended.value.code
        said = capsys.readouterr().out
        assert said.startswith(beginning)
    assert json.loads(said)["splits"]["train"]["objects"] == 2
