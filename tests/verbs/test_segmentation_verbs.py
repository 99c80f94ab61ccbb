"""The verbs on a segmenter: what a run of masks leaves behind, and what comes out of new pictures."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_suite import ConfigError, cli, evaluate, load, model_info, predict, save_results
from densenet_suite.report.segmentation import plot_confusion
from densenet_suite.synthetic import MASK_CLASSES


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture
def photos(synthetic: Path) -> Path:
    return synthetic / "images" / "test"


def test_scores_are_those_of_the_run_and_cover_boundaries(trained_segmenter_run) -> None:
    scores = evaluate(trained_segmenter_run.dir)
    assert scores == json.loads((trained_segmenter_run.dir / "eval" / "val" / "metrics.json").read_text())
    assert scores["mIoU"] == pytest.approx(trained_segmenter_run.summary["best_score"], abs=1e-6)
    assert {"mDice", "pixel_accuracy", "image_mIoU", "boundary_IoU", "HD95"} <= set(scores)


def test_the_evaluation_holds_tables_that_agree(trained_segmenter_run, synthetic: Path) -> None:
    folder = trained_segmenter_run.dir / "eval" / "val"
    with open(folder / "per_class.csv", newline="") as file:
        per_class = {row["class"]: row for row in csv.DictReader(file)}
    assert list(per_class) == list(MASK_CLASSES)
    with open(folder / "confusion.csv", newline="") as file:
        rows = [[int(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]]
    masks = [np.asarray(Image.open(path)) for path in sorted((synthetic / "masks" / "val").iterdir())]
    truth = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=5)
    assert [sum(row) for row in rows] == truth.tolist() == [int(row["pixels"]) for row in per_class.values()]
    for i, values in enumerate(per_class.values()):
        union = sum(rows[i]) + sum(row[i] for row in rows) - rows[i][i]
        if union:
            assert float(values["IoU"]) == pytest.approx(rows[i][i] / union)


def test_the_report_shows_scores_classes_and_pictures(trained_segmenter_run) -> None:
    page = (trained_segmenter_run.dir / "report.html").read_text()
    for part in ("mIoU on val", "boundary_IoU on val", "<td>segmentation</td><td>unet</td>", "<td>star</td>"):
        assert part in page
    assert len(re.findall(r'src="data:image/', page)) == 4
    for name in ("truth_and_masks.jpg", "confusion.png"):
        with Image.open(trained_segmenter_run.dir / "eval" / "val" / name) as picture:
            assert np.asarray(picture).std() > 10
    with Image.open(trained_segmenter_run.dir / "images" / "train_batch.jpg") as picture:
        assert picture.width > 200


def test_a_class_without_pixels_has_its_row_in_the_confusion(tmp_path: Path) -> None:
    plot_confusion(np.array([[5, 0], [0, 0]]), ("a", "b"), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").is_file()


def test_each_picture_gives_a_mask_of_its_size(trained_segmenter_run, photos: Path) -> None:
    found = list(predict(trained_segmenter_run.dir, photos))
    assert [prediction.path for prediction in found] == sorted(photos.iterdir())
    for prediction in found:
        assert prediction.mask.shape == prediction.size == (64, 96)
        assert prediction.mask.dtype == np.uint8
        assert prediction.probabilities.shape == (5, 64, 96)
        np.testing.assert_array_equal(prediction.probabilities.argmax(0), prediction.mask)
        assert prediction.draw().width >= 96


def test_a_model_file_alone_predicts_as_its_run(trained_segmenter_run, photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.safetensors"
    shutil.copy(trained_segmenter_run.model_path, copy)
    for a, b in zip(predict(copy, photos), predict(trained_segmenter_run.dir, photos), strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
    assert load(copy).classes.names == tuple(MASK_CLASSES)


def test_the_command_writes_masks_and_overlays(trained_segmenter_run, photos: Path, tmp_path: Path, capsys) -> None:
    assert run("predict", trained_segmenter_run.dir, photos, "--out", tmp_path / "out", "--tile", 64) == 0
    assert f"3 pictures, written to {tmp_path / 'out'}" in capsys.readouterr().out
    expected = next(iter(predict(trained_segmenter_run.dir, photos, tile=64)))
    with Image.open(tmp_path / "out" / "masks" / "test_0000.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected.mask)
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 3
    assert (tmp_path / "out" / "predictions.csv").is_file()


def test_an_unknown_output_is_refused_with_the_known_ones(trained_segmenter_run, photos: Path, tmp_path: Path) -> None:
    found = predict(trained_segmenter_run.dir, photos)
    with pytest.raises(ConfigError, match=r"cannot save boxes\n  hint: known are masks"):
        save_results(trained_segmenter_run.dir, found, tmp_path, ["boxes"])


@pytest.mark.parametrize("argument", ["score_threshold", "max_detections"])
def test_arguments_of_detection_are_refused(trained_segmenter_run, photos: Path, argument: str) -> None:
    with pytest.raises(ConfigError, match=f"{argument} means nothing to a model of segmentation"):
        predict(trained_segmenter_run.dir, photos, **{argument: 1})


@pytest.mark.parametrize("argument", ["tile", "overlap"])
def test_arguments_of_segmentation_are_refused(trained_run, photos: Path, argument: str) -> None:
    with pytest.raises(ConfigError, match=f"{argument} means nothing to a model of detection"):
        predict(trained_run.dir, photos, **{argument: 64})


def test_tiles_the_network_cannot_take_are_refused_with_the_rule(trained_segmenter_run, photos: Path) -> None:
    with pytest.raises(ConfigError, match="tile side 100 is not a multiple of the model's stride 32"):
        list(predict(trained_segmenter_run.dir, photos, tile=100))


def test_a_decoder_has_numbers_to_show(capsys) -> None:
    assert run("models", "info", "unet") == 0
    assert "parameters: 5,834,846" in capsys.readouterr().out
    assert model_info("fpn")["kind"] == "decoder"
    assert run("models", "list", "unet*") == 0
    assert capsys.readouterr().out.split() == ["decoders:", "unet", "unetplusplus"]


def test_other_classes_than_the_models_are_refused_by_name(trained_segmenter_run) -> None:
    with pytest.raises(ConfigError) as raised:
        evaluate(trained_segmenter_run.dir, ["data.classes={background: 0, coin: 1}"])
    assert "coin" in str(raised.value)
