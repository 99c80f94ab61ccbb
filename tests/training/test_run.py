import json
import logging
import shutil
from pathlib import Path

import pytest

from densenet_suite import ConfigError, evaluate, load, predict
from densenet_suite.config.load import load_config
from densenet_suite.training.run import Run


def test_runs_are_numbered(tiny_config: Path, tmp_path: Path) -> None:
    config = load_config(tiny_config, [f"output={tmp_path}"])
    assert [Run.create(config).dir.name for _ in range(3)] == ["tiny-001", "tiny-002", "tiny-003"]


def test_the_config_of_a_run_is_the_one_it_was_made_with(tiny_config: Path, tmp_path: Path) -> None:
    config = load_config(tiny_config, [f"output={tmp_path}", "train.epochs=7"])
    assert Run.create(config).config == config


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a run folder: it has no config\.yaml"):
        Run.open(tmp_path)


def test_env_json_tells_versions_and_command(trained_run: Run) -> None:
    found = json.loads((trained_run.dir / "env.json").read_text())
    assert found["packages"]["torch"]
    assert found["command"]


def test_a_moved_run_is_evaluated_loaded_and_used(trained_run: Run, synthetic: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained_run.dir, moved)
    assert evaluate(moved) == evaluate(trained_run.dir)
    assert load(moved).classes == load(trained_run.dir).classes
    assert len(list(predict(moved, synthetic / "images" / "test"))) == 3


def test_a_further_process_uses_the_folder_of_the_first(tiny_config: Path, tmp_path: Path, monkeypatch) -> None:
    config = load_config(tiny_config, [f"output={tmp_path}"])
    first = Run.create(config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Run.create(config) == first
    monkeypatch.delenv("DENSENET_SUITE_RUN")
    with pytest.raises(ConfigError, match=r"start a single process, with trainer\.devices"):
        Run.create(config)


def _fail_in(run: Run) -> None:
    with run.logging():
        raise ZeroDivisionError("until now")


def test_the_log_is_kept_and_handlers_are_taken_away(tiny_config: Path, tmp_path: Path) -> None:
    run = Run.create(load_config(tiny_config, [f"output={tmp_path}"]))
    logger = logging.getLogger("densenet_suite")
    before = list(logger.handlers)
    with run.logging():
        logger.info("all is well")
    with pytest.raises(ZeroDivisionError, match="until now"):
        _fail_in(run)
    text = (run.dir / "log.txt").read_text()
    assert "all is well" in text
    assert "ZeroDivisionError: until now" in text
    assert logger.handlers == before
