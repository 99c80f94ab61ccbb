"""The page and the pictures of a run."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from densenet_suite.report.detection import plot_precision_recall
from densenet_suite.report.figures import plot_curves
from densenet_suite.report.run_report import report_run


def test_the_page_needs_nothing_beside_it(trained_run) -> None:
    page = (trained_run.dir / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) >= 4
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)


def test_the_page_shows_scores_facts_classes_and_config(trained_run) -> None:
    page = (trained_run.dir / "report.html").read_text()
    for part in (
        "AP50 on val",
        "efficientdet_d0",
        "<h2>Classes</h2>",
        "<td>star</td>",
        "architecture: efficientdet_d0",
    ):
        assert part in page


def test_names_from_the_data_cannot_write_into_the_page(trained_run, tmp_path: Path) -> None:
    import shutil

    from densenet_suite.report.run_report import _page
    from densenet_suite.training.run import Run

    copy = Run(tmp_path / "<script>")
    shutil.copytree(trained_run.dir, copy.dir)
    table = copy.dir / "eval" / "val" / "per_class.csv"
    table.write_text("class,objects,AP,AP50\n<script>alert(1)</script>,3,0.5,0.5\n")
    page = _page(copy, {"AP": 0.5})
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_report_can_be_written_again(trained_run) -> None:
    assert report_run(trained_run)["AP"] is not None


def test_the_first_batch_is_drawn(trained_run) -> None:
    with Image.open(trained_run.dir / "images" / "train_batch.jpg") as picture:
        assert picture.width > 200
        assert np.asarray(picture).std() > 10


def test_curves_of_an_epoch_without_scores(tmp_path: Path) -> None:
    rows = [
        {"epoch": "1", "train/loss": "2.0", "val/loss": "", "val/AP": "", "lr": "0.1"},
        {"epoch": "2", "train/loss": "1.0", "val/loss": "1.5", "val/AP": "0.25", "lr": "0.05"},
    ]
    plot_curves(rows, ["AP"], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 400


def test_precision_and_recall_where_no_class_has_an_object(tmp_path: Path) -> None:
    from densenet_suite.detection.metric import DetectionScores

    scores = DetectionScores({"AP": None}, {"disc": {"AP": None, "AP50": None, "objects": 0}}, np.full((101, 1), -1.0))
    plot_precision_recall(scores, tmp_path / "pr.png")
    with Image.open(tmp_path / "pr.png") as picture:
        assert picture.width > 200
