"""`data show`: what is drawn is what the files say, and what the network gets."""

import numpy as np
import pytest
from PIL import Image
from scenes import write_coco

from densenet_suite import cli, show_data
from densenet_suite.drawing import class_colour
from densenet_suite.errors import ConfigError, DataError
from densenet_suite.report.sample_sheets import PANEL


def _pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_sheets_hold_sixteen_pictures_each_and_are_named_by_split(synthetic, tmp_path):
    sheets = show_data(synthetic, out=tmp_path, task="detection", split="val")
    assert [sheet.name for sheet in sheets] == ["val-1.png"]  # of 5 images
    (first, second) = show_data(synthetic, ["data.size=64"], out=tmp_path, task="detection", augmented=True)
    assert (first.name, second.name) == ("train-augmented-1.png", "train-augmented-2.png")
    assert _pixels(first).shape[0] > _pixels(second).shape[0]  # 12 images and what is trained of them: 16 and 8


def test_a_box_is_drawn_where_the_file_has_it_in_the_colour_of_the_legend(tmp_path):
    root = write_coco(tmp_path / "data", [((PANEL, PANEL), [{"bbox": [100, 200, 300, 150]}])])
    (sheet,) = show_data(root, ["data.holdout=0"], out=tmp_path, task="detection", count=1)
    drawn = (_pixels(sheet) == class_colour(0)).all(-1)
    rows, columns = np.nonzero(drawn[: PANEL + 20])
    top = _pixels(sheet).shape[0] - np.flatnonzero(drawn.any(1)).max()  # the legend is below
    assert top > 0
    assert (columns.min(), columns.max()) == (100, 400)
    assert rows.max() - rows.min() == 150


def test_what_is_shown_as_trained_is_what_is_trained(synthetic, tmp_path):
    from densenet_suite.sampling import SampleKey
    from densenet_suite.verbs.dataset import open_dataset

    overrides = [f"data.size={PANEL - PANEL % 32}"]
    (sheet,) = show_data(synthetic, overrides, out=tmp_path, task="detection", count=1, augmented=True, seed=3)
    data = open_dataset(synthetic, overrides, task="detection").data
    data.seed, data.batch = 3, 1
    sample = data.train_dataloader().dataset[SampleKey(0, 3)]
    assert len(sample.labels) > 0
    pixels = sample.image.numpy().transpose(1, 2, 0)
    right = _pixels(sheet)[:, PANEL + 12 :]
    caption = right.shape[0] - np.flatnonzero((right != 255).any((1, 2))).max()
    assert caption >= 0
    means = [
        float(np.abs(right[y : y + len(pixels), : pixels.shape[1]].astype(int) - pixels).mean()) for y in range(15, 30)
    ]
    assert min(means) < 8  # boxes are drawn on it


def test_another_seed_shows_other_images_and_changes(synthetic, tmp_path):
    sheets = [
        show_data(synthetic, out=tmp_path / str(seed), task="detection", count=2, augmented=True, seed=seed)
        for seed in (0, 0, 1)
    ]
    first, again, other = (_pixels(sheet) for (sheet,) in sheets)
    assert first.shape == again.shape
    assert (first == again).all()
    assert first.shape != other.shape or (first != other).any()


def test_masks_are_drawn_with_a_legend_and_what_is_not_labelled_hatched(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder / "train").mkdir(parents=True)
    for i in range(2):
        mask = np.zeros((64, 64), np.uint8)
        mask[:32] = 1
        mask[:, 32:] = 255
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / "train" / f"{i}.png")
        Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "data" / "images" / "train" / f"{i}.png")
    classes = "data.classes={background: 0, thing: 1}"
    (sheet,) = show_data(tmp_path / "data", [classes, "data.holdout=0"], out=tmp_path, count=1)
    pixels = _pixels(sheet)
    half = PANEL // 2
    mask = pixels[: PANEL + 20, PANEL + 12 : 2 * PANEL + 12]
    white = (mask[40:PANEL] == 255).all(-1)
    assert 0.1 < white[:, half:].mean() < 0.4  # stripes over all that is not labelled
    assert white[:, : half - 4].mean() == 0
    assert (pixels[PANEL + 20 :] == class_colour(1)).all(-1).any()


def test_rasters_of_many_bands_are_shown(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    for folder in ("images", "masks"):
        (tmp_path / folder / "train").mkdir(parents=True)
    values = np.random.default_rng(0).integers(200, 3000, (5, 64, 64)).astype(np.uint16)
    place = rasterio.Affine(1, 0, 5e5, 0, -1, 4e6)
    with rasterio.open(
        tmp_path / "images" / "train" / "a.tif", "w", driver="GTiff", height=64, width=64, count=5, dtype="uint16",
        crs="EPSG:32631", transform=place,
    ) as file:  # fmt: skip
        file.write(values)
    Image.fromarray(np.eye(64, dtype=np.uint8)).save(tmp_path / "masks" / "train" / "a.png")
    (sheet,) = show_data(tmp_path, ["data.crop=32", "data.holdout=0"], out=tmp_path / "out", augmented=True)
    assert len(np.unique(_pixels(sheet))) > 100


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "vla"}, ConfigError, "no split 'vla'"),
        ({"count": 0}, ConfigError, "count is 0"),
        ({"split": "val", "augmented": True}, ConfigError, "the val split is not augmented"),
    ],
)
def test_wrong_arguments_are_told(synthetic, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        show_data(synthetic, out=tmp_path, task="detection", **options)


def test_a_split_that_is_not_there_is_told(tmp_path):
    root = write_coco(tmp_path, [((64, 64), [{"bbox": [10, 10, 40, 40]}])])
    with pytest.raises(DataError, match="there is no test split"):
        show_data(root, out=tmp_path / "out", task="detection", split="test")


def test_the_command_prints_the_sheets(synthetic, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "show", str(synthetic), "--task", "detection", "--out", str(tmp_path), "--count", "1"])
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == str(tmp_path / "train-1.png")
