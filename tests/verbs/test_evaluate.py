import csv
import json
import shutil
from pathlib import Path

import pytest

from densenet_suite import ConfigError, DataError, evaluate
from densenet_suite.modelfile import read_card, write_model_file


def test_scores_are_those_of_the_run(trained_run) -> None:
    scores = evaluate(trained_run.dir)
    assert scores["AP"] == pytest.approx(trained_run.summary["best_score"], abs=1e-6)
    assert set(scores) == {
        *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
        *("AR_1", "AR_10", "AR_100"),
    }


def test_what_is_not_defined_is_none(trained_run) -> None:
    assert evaluate(trained_run.dir)["AP_large"] is None  # no object of 96 x 96 pixels fits these pictures


def test_the_folder_holds_metrics_classes_detections_and_pictures(trained_run) -> None:
    scores = evaluate(trained_run.dir, split="test")
    folder = trained_run.dir / "eval" / "test"
    assert json.loads((folder / "metrics.json").read_text()) == scores
    rows = list(csv.DictReader((folder / "per_class.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["disc", "square", "triangle", "star"]
    assert (folder / "pr.png").is_file()
    assert (folder / "truth_and_detections.jpg").is_file()


def test_the_detections_file_scores_the_same_in_pycocotools(trained_run, synthetic: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    scores = evaluate(trained_run.dir, split="train")
    truth = COCO(str(synthetic / "annotations" / "instances_train.json"))
    found = truth.loadRes(str(trained_run.dir / "eval" / "train" / "predictions.coco.json"))
    peer = COCOeval(truth, found, "bbox")
    peer.evaluate()
    peer.accumulate()
    peer.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    assert [scores[name] if scores[name] is not None else -1 for name in names] == pytest.approx(
        list(peer.stats[:6]), abs=1e-9
    )


def test_a_model_file_alone_is_evaluated_on_other_data(trained_run, synthetic: Path, tmp_path: Path) -> None:
    model, data = tmp_path / "model.safetensors", tmp_path / "data"
    shutil.copy(trained_run.model_path, model)
    shutil.copytree(synthetic, data)
    assert evaluate(model, [f"data.root={data}"]) == evaluate(trained_run.dir)


def test_post_processing_can_be_changed(trained_run) -> None:
    assert evaluate(trained_run.dir, ["postprocess.score_threshold=0.99"])["AR_100"] == 0


def test_a_missing_split_is_said_with_what_there_is(trained_run, synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic, tmp_path / "data")
    (tmp_path / "data" / "annotations" / "instances_test.json").unlink()
    with pytest.raises(DataError, match=r"there is no test split \(found: train, val\)"):
        evaluate(trained_run.dir, [f"data.root={tmp_path / 'data'}"], split="test")


def test_a_model_file_that_does_not_tell_its_config_is_said(trained_run, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    card = read_card(trained_run.model_path)
    assert card is not None
    path = tmp_path / "bare.safetensors"
    write_model_file(path, load_file(trained_run.model_path), {**card, "provenance": {}})
    with pytest.raises(ConfigError, match="does not say what it was trained with"):
        evaluate(path)


def test_other_classes_are_refused_by_name(trained_run, synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic, tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"disc"', '"disk"'))
    with pytest.raises(DataError, match="disk") as raised:
        evaluate(trained_run.dir, [f"data.root={tmp_path / 'data'}"])
    assert "disc" in str(raised.value)
