"""`resume` with changes: more epochs, another number of workers; nothing that would make it another run."""

import shutil
from pathlib import Path

import pytest

from densenet_suite import ConfigError, resume
from densenet_suite.training.metrics_log import read_metrics
from densenet_suite.training.run import Run


@pytest.fixture
def copy(trained_segmenter_run: Run, tmp_path: Path) -> Run:
    shutil.copytree(trained_segmenter_run.dir, tmp_path / "copy")
    return Run(tmp_path / "copy")


def test_a_finished_run_goes_on_for_more_epochs_and_says_what_becomes_of_the_schedule(copy: Run) -> None:
    ended = float(read_metrics(copy.metrics_path)[-1]["lr"])
    run = resume(copy.dir, ["train.epochs=3", "data.workers=0"])
    rows = read_metrics(run.metrics_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert run.summary["status"] == "finished"
    assert run.config.train.epochs == 3
    assert float(rows[1]["lr"]) > 0 == pytest.approx(ended, abs=1e-9)  # up again, and down to nothing at the new end
    assert float(rows[2]["lr"]) == pytest.approx(0, abs=1e-9)
    log = (run.dir / "log.txt").read_text()
    assert "resumed with train.epochs=3 (was 1)" in log
    assert "along the cosine of a run of 3 epochs, 33 % of which are done; it was on that of 1" in log


@pytest.mark.parametrize("override", ["seed=5", "model.decoder=fpn", "train.batch=2", "augment.flip=0.1"])
def test_what_would_make_it_another_run_is_refused(copy: Run, override: str) -> None:
    before = copy.config_path.read_text()
    with pytest.raises(ConfigError, match=rf"{override.split('=')[0]} cannot be changed(.|\n)*model.weights="):
        resume(copy.dir, [override])
    assert copy.config_path.read_text() == before


def test_fewer_epochs_than_are_done_are_refused(copy: Run) -> None:
    run = resume(copy.dir, ["train.epochs=2"])
    with pytest.raises(ConfigError, match=r"train.epochs=1, and 2 are done"):
        resume(run.dir, ["train.epochs=1"])


def test_a_misspelt_key_is_told(copy: Run) -> None:
    with pytest.raises(ConfigError, match="epochs"):
        resume(copy.dir, ["train.epoch=3"])
