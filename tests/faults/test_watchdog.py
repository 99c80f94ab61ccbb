"""A run that hangs: it ends itself with a code of its own, and leaves the stacks of its threads."""

import threading
from pathlib import Path
from types import SimpleNamespace

from densenet_suite.training.watchdog import EXIT_CODE, Watchdog


class Hanging:
    def __init__(self, folder: Path, minutes: float):
        self.told: list[str] = []
        self.left = threading.Event()
        self.codes: list[int] = []
        self.dog = Watchdog(folder, minutes, lambda trainer, what: self.told.append(what), self._leave)
        self.dog.on_fit_start(SimpleNamespace(global_rank=1), None)

    def _leave(self, code: int) -> None:
        self.codes.append(code)
        self.left.set()


def test_the_end_is_told_and_the_stacks_are_written(tmp_path: Path) -> None:
    hanging = Hanging(tmp_path, 0.001)
    assert hanging.left.wait(60)
    assert hanging.codes == [EXIT_CODE] == [124]
    assert "no batch was begun or done for 0.0 minutes (train.hang_minutes); see hang-1.txt" in hanging.told[0]
    stacks = (tmp_path / "hang-1.txt").read_text()
    assert "test_the_end_is_told_and_the_stacks_are_written" in stacks  # where the thread that hangs stands


def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    living = Hanging(tmp_path, 0.01)
    for _ in range(4):
        assert not living.left.wait(0.25)  # more than the limit in all
        living.dog.on_train_batch_end()
    living.dog.on_fit_end()
    assert not living.left.wait(0.8)
    assert not list(tmp_path.iterdir())


def test_without_a_limit_nobody_watches(tmp_path: Path) -> None:
    before = threading.active_count()
    Hanging(tmp_path, 0)
    assert threading.active_count() == before
