"""kill -9 and SIGTERM at any moment: the run that is resumed ends as if nothing had happened, to the bit.

`tools/kill_runs.py` is the long version, on real data.
"""

import os
import random
import signal
from pathlib import Path

import pytest
from killing import assert_same_end, kill_until_done, make_run, train_in_child, wait

OVERRIDES = ["train.epochs=3", "train.batch=2", "train.accumulate=2", "train.save_minutes=0", "model.drop_path=0.2"]


@pytest.mark.parametrize("config_name", ["tiny_config", "tiny_segmenter_config"], ids=["detection", "segmentation"])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    request: pytest.FixtureRequest, tmp_path: Path, config_name: str
) -> None:
    config = request.getfixturevalue(config_name)
    whole = make_run(config, tmp_path, "whole", OVERRIDES)
    assert wait(train_in_child(whole, resume=False)) == 0
    killed = make_run(config, tmp_path, "killed", [*OVERRIDES, "data.workers=1"])
    kill_until_done(killed, 4, 6.0, signal.SIGKILL, random.Random(0))
    assert_same_end(killed, whole)
    assert not list(killed.dir.rglob(".*.tmp-*"))


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tiny_config: Path, tmp_path: Path) -> None:
    run = make_run(tiny_config, tmp_path, "early", OVERRIDES)
    child = train_in_child(run, resume=False)
    while not (run.dir / "summary.json").exists():
        pass
    os.killpg(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    assert wait(train_in_child(run, resume=True)) == 0
    assert run.summary["status"] == "finished"
