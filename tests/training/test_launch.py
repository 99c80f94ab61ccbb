"""Runs that torchrun or Slurm start in several processes, and runs of which a process dies."""

import os
import signal
import time
from pathlib import Path

import pytest
from training.launchers import TRAIN, by_lightning, by_slurm, by_torchrun, finish, start

from densenet_suite.config.load import load_config
from densenet_suite.errors import ConfigError
from densenet_suite.training.launch import Processes, trainer_options


def test_launchers_give_the_same_run(tiny_config: Path, tmp_path: Path) -> None:
    found = {}
    for launcher in (by_torchrun, by_slurm):
        output = tmp_path / launcher.__name__
        said = finish(launcher([tiny_config, f"output={output}", "train.batch=2"]))
        assert said.count("report:") == 2, said  # in the log, and at the end
        (run,) = output.iterdir()
        found[launcher] = [(run / name).read_text() for name in ("metrics.csv", "eval/val/metrics.json")]
    assert found[by_torchrun] == found[by_slurm]


@pytest.mark.parametrize(("launcher", "first"), [(by_slurm, True), (by_lightning, False)])
def test_a_process_that_dies_ends_all_with_one_message(
    launcher, first: bool, tiny_config: Path, tmp_path: Path
) -> None:
    processes = launcher([tiny_config, f"output={tmp_path}", "train.batch=2", "train.epochs=999"])
    run = tmp_path / "tiny-001"
    while not (run / "metrics.csv").exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    numbers = [process.pid for process in processes]
    if launcher is by_lightning:
        numbers += [int(child) for child in Path(f"/proc/{numbers[0]}/task/{numbers[0]}/children").read_text().split()]
    os.kill(numbers[0 if first else 1], signal.SIGKILL)
    said = "".join(process.communicate(timeout=60)[0] for process in processes)
    assert said.count("error: another process of this run has ended, and all end with it") == 1, said
    assert "Traceback" not in said
    assert not any(is_running(number) for number in numbers)


def is_running(number: int) -> bool:
    status = Path(f"/proc/{number}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_lightning_is_told_of_what_a_launcher_has_started(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(tiny_config)
    assert trainer_options(config).keys() == {"accelerator", "plugins"}
    for name, value in {"RANK": 5, "LOCAL_RANK": 1, "GROUP_RANK": 1, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("MASTER_PORT", "29500")
    options = trainer_options(config)
    assert {name: options[name] for name in ("devices", "num_nodes", "strategy")} == {
        "devices": 4,
        "num_nodes": 2,
        "strategy": "ddp",
    }
    assert isinstance(options["plugins"][0], Processes)
    same = ["trainer.devices=4", "trainer.num_nodes=2", "trainer.strategy=ddp_find_unused_parameters_true"]
    assert trainer_options(load_config(tiny_config, same))["strategy"] == "ddp_find_unused_parameters_true"
    for other in ("trainer.devices=2", "trainer.devices=[0,1]", "trainer.num_nodes=1"):
        with pytest.raises(ConfigError, match="torchrun has started 4 processes on each of 2 machines"):
            trainer_options(load_config(tiny_config, [other]))


def test_a_process_of_an_unknown_launcher_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    done = start([*TRAIN, tiny_config, f"output={tmp_path}"], LOCAL_RANK="1", DENSENET_SUITE_RUN="")
    said = done.communicate(timeout=60)[0]
    assert done.returncode == 2, said
    assert "RANK, LOCAL_RANK or NODE_RANK is set, and no launcher that is known" in said
