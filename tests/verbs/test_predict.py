import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from loaded import loaded_by
from PIL import Image

from densenet_suite import ConfigError, DataError, Postprocess, cli, fuse, load, predict
from densenet_suite.detection.prediction import Predictor


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


@pytest.fixture
def photos(synthetic: Path) -> Path:
    return synthetic / "images" / "test"


def test_each_picture_gives_a_prediction_in_order(trained_run, photos: Path) -> None:
    found = list(predict(trained_run.dir, photos, score_threshold=0.0))
    assert [prediction.path for prediction in found] == sorted(photos.iterdir())
    for prediction in found:
        assert prediction.size == (64, 96)
        assert len(prediction) == len(prediction.boxes) == len(prediction.labels) == len(prediction.names)
        assert (np.diff(prediction.scores) <= 0).all()
        assert (prediction.boxes >= 0).all()
        assert (prediction.boxes <= [96, 64, 96, 64]).all()


def test_the_batch_changes_nothing(trained_run, photos: Path) -> None:
    one = list(predict(trained_run.dir, photos, score_threshold=0.0, batch=1))
    many = list(predict(trained_run.dir, photos, score_threshold=0.0, batch=8))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_a_model_file_alone_predicts_as_its_run(trained_run, photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.safetensors"
    shutil.copy(trained_run.model_path, copy)
    for a, b in zip(predict(copy, photos), predict(trained_run.dir, photos), strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        assert a.names == b.names


def test_predictions_come_one_batch_at_a_time(trained_run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from densenet_suite.detection import prediction

    read: list[Path] = []
    original = prediction.read_pixels
    monkeypatch.setattr(prediction, "read_pixels", lambda path, bands: read.append(path) or original(path, bands))
    found = predict(trained_run.dir, photos, batch=1)
    assert read == []
    next(found)
    assert len(read) == 1


def test_the_limit_is_the_users(trained_run, photos: Path) -> None:
    assert all(len(p) == 2 for p in predict(trained_run.dir, photos, score_threshold=0.0, max_detections=2))


def test_a_score_outside_0_to_1_is_refused(trained_run, photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"score_threshold is 30, a score is between 0 and 1"):
        predict(trained_run.dir, photos, score_threshold=30)


def test_a_missing_model_is_said(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run folder or model file"):
        predict(tmp_path / "missing", photos)


def test_a_run_without_a_model_is_said(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run folder holds no trained model"):
        predict(tmp_path, photos)


def test_a_folder_without_pictures_is_said(trained_run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder holds no images"):
        predict(trained_run.dir, tmp_path)


def test_the_command_writes_pictures_coco_and_csv(trained_run, photos: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "found"
    assert run("predict", trained_run.dir, photos, "--out", out, "--score-threshold", 0.001) == 0
    assert "in 3 pictures" in capsys.readouterr().out
    assert sorted(path.name for path in out.glob("*.jpg")) == [f"test_000{i}.jpg" for i in range(3)]
    document = json.loads((out / "predictions.coco.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [str(path) for path in sorted(photos.iterdir())]
    assert [category["name"] for category in document["categories"]] == ["disc", "square", "triangle", "star"]
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert len(rows) == len(document["annotations"]) > 0
    x, y, width, height = document["annotations"][0]["bbox"]
    corners = [float(rows[0][name]) for name in ("x1", "y1", "x2", "y2")]
    assert corners == pytest.approx([x, y, x + width, y + height], abs=0.02)


def test_the_coco_file_is_read_by_pycocotools(trained_run, photos: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    run("predict", trained_run.dir, photos, "--out", tmp_path, "--score-threshold", 0.001, "--save", "coco")
    coco = COCO(str(tmp_path / "predictions.coco.json"))
    assert len(coco.getImgIds()) == 3
    assert not (tmp_path / "predictions.csv").exists()


def test_a_single_file_and_a_pattern(trained_run, photos: Path) -> None:
    assert len(list(predict(trained_run.dir, photos / "test_0001.jpg"))) == 1
    assert len(list(predict(trained_run.dir, str(photos / "*_000[02].jpg")))) == 2


def test_an_unknown_output_is_refused(trained_run, photos: Path, tmp_path: Path) -> None:
    assert run("predict", trained_run.dir, photos, "--out", tmp_path, "--save", "coco,gif") == 2


def test_files_of_one_name_do_not_overwrite_each_other(trained_run, photos: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(photos / "test_0000.jpg", tmp_path / "in" / folder / "same.jpg")
    run("predict", trained_run.dir, tmp_path / "in", "--out", tmp_path / "out", "--save", "pictures")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["same-2.jpg", "same.jpg"]


def test_unreadable_files_are_named_after_the_others_are_done(trained_run, data_folder, tmp_path: Path, capsys) -> None:
    files = data_folder("bad-inputs") / "files"
    assert run("predict", trained_run.dir, files, "--out", tmp_path, "--score-threshold", 0.001) == 3
    said = capsys.readouterr()
    for name, reason in (
        ("truncated.jpg", "damaged"),
        ("zero_byte.jpg", "empty"),
        ("gray16.png", "uint16, this model takes 8 bits"),
    ):
        (line,) = [line for line in said.err.splitlines() if name in line]
        assert reason in line
    unreadable = {"truncated", "zero_byte", "gray16"}
    expected = {path.name for path in files.iterdir() if path.stem not in unreadable}
    document = json.loads((tmp_path / "predictions.coco.json").read_text())
    assert {Path(image["file_name"]).name for image in document["images"]} == expected
    assert f"in {len(expected)} pictures" in said.out


def test_one_picture_in_eight_orientations_is_one_picture(trained_run, data_folder) -> None:
    found = list(predict(trained_run.dir, data_folder("bad-inputs") / "exif" / "images", score_threshold=0.0))
    assert len(found) == 8
    assert len({prediction.size for prediction in found}) == 1
    best = np.array([prediction.scores[:20].mean() for prediction in found])
    assert np.ptp(best) < 0.05  # not 0: the files are compressed one by one, so their pixels differ a little


def test_the_drawn_picture_shows_its_boxes(trained_run, photos: Path) -> None:
    prediction = next(predict(trained_run.dir, photos, score_threshold=0.001, max_detections=3))
    drawn = prediction.draw()
    with Image.open(prediction.path) as plain:
        assert drawn.width % plain.width == 0
        assert (np.asarray(drawn) != np.asarray(plain.resize(drawn.size, Image.Resampling.NEAREST))).any()


def test_a_loaded_model_takes_pixel_values_of_any_size(trained_run) -> None:
    import torch

    model = load(trained_run.dir)
    assert not model.training
    raw = model(torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8))
    assert raw.class_logits.shape[2] == 4


def test_half_precision_is_that_of_the_whole_network(trained_run, photos: Path) -> None:
    model = fuse(load(trained_run.dir), torch.bfloat16)
    whole = Predictor(model, (64, 96), Postprocess(score_threshold=0.0))(sorted(photos.iterdir()))
    half = predict(trained_run.dir, photos, score_threshold=0.0, precision="bfloat16")
    exact = predict(trained_run.dir, photos, score_threshold=0.0)
    for a, b, c in zip(half, whole, exact, strict=True):
        assert (a.scores == b.scores).all()
        assert (a.scores != c.scores).any()


def test_a_folder_without_pictures_is_said_before_torch_is_loaded(trained_run, tmp_path: Path) -> None:
    assert loaded_by(["predict", str(trained_run.dir), str(tmp_path)], ["torch"]) == (3, [])


def test_cuda_graphs_are_refused_where_there_is_no_gpu(trained_run, photos: Path) -> None:
    with pytest.raises(ConfigError, match="CUDA graphs need a GPU of NVIDIA's, and this is to run on cpu"):
        predict(trained_run.dir, photos, device="cpu", cuda_graphs=True)
    assert run("predict", trained_run.dir, photos, "--device", "cpu", "--cuda-graphs") != 0


def test_an_unknown_precision_is_refused_before_anything_is_read(trained_run, photos: Path) -> None:
    with pytest.raises(ConfigError, match="precision is 'half', it is one of float32, bfloat16"):
        predict(trained_run.dir, photos, precision="half")
    assert run("predict", trained_run.dir, photos, "--precision", "half") != 0
