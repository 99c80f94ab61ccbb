"""A disk that is full and a folder that is read-only: nothing is lost, and a run goes on or ends as it was told."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from densenet_suite import load, resume
from densenet_suite.cli import main
from densenet_suite.config.load import load_config
from densenet_suite.errors import SuiteError
from densenet_suite.training.checkpoint_file import read_checkpoint
from densenet_suite.training.fit import fit
from densenet_suite.training.metrics_log import read_metrics
from densenet_suite.training.run import Run


class FullDisk(L.Callback):
    """Limits the size of files that this process can write, from the start of some epochs on: as a quota does."""

    def __init__(self, epochs: range):
        self.epochs = epochs
        self.former = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        full = trainer.current_epoch in self.epochs
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, self.former[1]) if full else self.former)

    def on_fit_end(self, trainer, pl_module) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.former)

    def on_exception(self, trainer, pl_module, exception) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.former)


@pytest.fixture
def start(tiny_segmenter_config: Path, tmp_path: Path):
    def begin(*overrides: str, callbacks=()) -> Run:
        config = load_config(tiny_segmenter_config, [f"output={tmp_path}", "train.batch=6", *overrides])
        run = Run.create(config)
        fit(config, run, callbacks=callbacks)
        return run

    return begin


@pytest.fixture(scope="module")
def whole(tiny_segmenter_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of four epochs that always had room."""
    options = [f"output={tmp_path_factory.mktemp('whole')}", "train.batch=6", "train.epochs=4"]
    config = load_config(tiny_segmenter_config, options)
    run = Run.create(config)
    fit(config, run)
    return run


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer
def test_a_run_outlasts_a_disk_that_is_full_for_a_while(start, whole: Run, caplog) -> None:
    with caplog.at_level("WARNING", "densenet_suite"):
        run = start("train.epochs=4", "train.unsaved_checkpoints=2", callbacks=(FullDisk(range(1, 3)),))
    assert run.summary["status"] == "finished"
    assert run.summary["faults"]["unwritten_checkpoints"] >= 2
    assert any("last.ckpt could not be written: File too large" in message for message in caplog.messages)
    ends = [torch.load(r.last_checkpoint)["state_dict"] for r in (whole, run)]
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)
    assert [row["epoch"] for row in read_metrics(run.metrics_path)] == ["1", "2", "3", "4"]
    assert run.metrics_path.read_text() == whole.metrics_path.read_text()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer
def test_a_run_that_cannot_save_stops_whole_and_goes_on_when_there_is_room(start, whole: Run, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"could not be written 2 times in a row(.|\n)*densenet-suite resume"):
        start("train.epochs=4", "train.unsaved_checkpoints=1", callbacks=(FullDisk(range(1, 4)),))
    run = Run(tmp_path / "tiny-001")
    assert read_checkpoint(run.last_checkpoint)["epoch"] == 0  # written before the disk was full
    assert run.summary["status"] == "failed"
    assert load(run.dir) is not None  # the model file is one of a whole epoch
    resume(run.dir)
    ends = [torch.load(r.last_checkpoint)["state_dict"] for r in (whole, run)]
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)
    assert run.metrics_path.read_text() == whole.metrics_path.read_text()
    assert not list(run.dir.rglob(".*.tmp-*"))


def test_a_read_only_folder_is_counted_as_what_it_is(start, monkeypatch) -> None:
    from densenet_suite.training import checkpointing

    written = []

    def refuse(path: Path, *rest: object) -> None:
        written.append(path)
        if len(written) > 2:  # best and last of the first epoch are there
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        write(path, *rest)

    write = checkpointing.write_checkpoint
    monkeypatch.setattr(checkpointing, "write_checkpoint", refuse)
    with pytest.raises(SuiteError, match=r"could not be written 1 times in a row, train\.unsaved_checkpoints is 0"):
        start("train.epochs=3", "train.unsaved_checkpoints=0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a tmpfs of its own takes root on Linux")
def test_on_a_disk_too_small_for_its_checkpoints_a_run_ends_with_the_sentence(
    tiny_segmenter_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        options = ["train.unsaved_checkpoints=0", "train.epochs=2"]
        with pytest.raises(SystemExit) as ended:
            main(["train", str(tiny_segmenter_config), f"output={disk}", *options])
        said = capsys.readouterr().err
        assert ended.value.code == 1, said
        assert "last.ckpt could not be written: No space left on device" in caplog.text
        assert "make room, or make the folder writable" in said
        assert "Traceback" not in said
        assert not list(disk.rglob(".*.tmp-*"))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # TensorBoard's writer may hold a file there
