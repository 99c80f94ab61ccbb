"""kill -9 at any moment: the run that is resumed ends as if nothing had happened, to the bit.

The work is done by `tools/kill_runs.py`, which is the long version too, on real data. It has a process of its own: the
runs are its forks, and a process of tests may hold threads, which do not survive a fork.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from densenet_suite import resume
from densenet_suite.training.run import Run

OVERRIDES = ["train.epochs=2", "train.batch=2", "train.accumulate=2", "model.drop_path=0.2"]


@pytest.mark.parametrize("config_name", ["tiny_config", "tiny_segmenter_config"], ids=["detection", "segmentation"])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    request: pytest.FixtureRequest, config_name: str
) -> None:
    config: Path = request.getfixturevalue(config_name)
    command = [sys.executable, "tools/kill_runs.py", config, *OVERRIDES, "--kills", "4"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("exit code -9") >= 3, done.stdout  # it may end before the last
    assert "the ends are the same to the bit" in done.stdout


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    trained_segmenter_run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained_segmenter_run.dir, tmp_path / "early")
    run = Run(tmp_path / "early")
    for left in ("summary.json", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        (run.dir / left).unlink()
    (run.dir / "checkpoints" / ".last.ckpt.tmp-1").write_bytes(b"half of one")
    with caplog.at_level("INFO", "densenet_suite"):
        resume(run.dir)
    assert "there is no checkpoint yet: training starts at the beginning" in caplog.text
    assert run.summary["status"] == "finished"
    assert not list(run.dir.rglob(".*.tmp-*"))
