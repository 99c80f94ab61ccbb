"""Two workers of a Ray cluster on this machine: what they learn, what becomes of one that is lost, and what is said."""

import csv
import gc
import json
import os
import signal
import sys

import lightning as L
import pytest
import torch
from conftest import REPOSITORY

from densenet_suite import cli, train
from densenet_suite.config.load import load_config
from densenet_suite.errors import ConfigError, DataError, MissingExtraError, SuiteError
from densenet_suite.training import ray_launcher
from densenet_suite.training.interruption import InterruptedRunError, Interruption
from densenet_suite.training.launch import LostProcessError
from densenet_suite.training.ray_launcher import Workers, fit_on_ray
from densenet_suite.training.run import Run
from densenet_suite.verbs.data_convert import convert_data
from densenet_suite.verbs.train import resume

pytestmark = [
    pytest.mark.filterwarnings("ignore:::ray"),  # what it says of its own calls
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),  # its own, which it has ended
]

TWO = ["train.batch=2", "trainer.devices=2"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("ray", reason='ray is not installed: pip install "densenet-suite[ray]"')
    from ray import cloudpickle

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # or Ray writes one into the home folder
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in ray_launcher._ENVIRONMENT.items():
            patch.setenv(name, value)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
        with ray_launcher._cluster(Workers(2, False, False)):
            yield
        gc.collect()


class Diary(L.Callback):
    """Writes down which samples a worker draws, and kills the second one, once, on its way through an epoch."""

    def __init__(self, folder, killed_in=None):
        self.folder, self.killed_in = folder, killed_in

    def on_train_epoch_start(self, trainer, pl_module):
        drawn = [key.index for key in trainer.train_dataloader.sampler]
        row = [os.getpid(), trainer.current_epoch, trainer.global_rank, trainer.world_size, *drawn]
        with open(self.folder / f"rank-{trainer.global_rank}.csv", "a") as file:
            file.write(",".join(map(str, row)) + "\n")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        once = self.folder / "killed"
        place = (trainer.current_epoch, batch_idx, trainer.global_rank)
        if place == (self.killed_in, 1, 1) and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def _drawn(folder, rank):
    with open(folder / f"rank-{rank}.csv") as file:
        return [[int(cell) for cell in row] for row in csv.reader(file)]


# batch norms are frozen, as those of the CPU see the images of their own process only; adamw makes much of little
FIXED = ["train.epochs=4", "trainer.check_val_every_n_epoch=4", "train.freeze=['*norm*']", "model.drop_path=0.0"]
FIXED += ["train.ema=0.0", "train.recalibrate=0", "train.optimizer.name=sgd", "train.optimizer.lr=0.08"]


@pytest.fixture(scope="module")
def killed(cluster, tiny_config, tmp_path_factory):
    """Return a run of which a worker was killed in the third of four epochs."""
    output = tmp_path_factory.mktemp("killed")
    diary = Diary(output, killed_in=2)
    strategy = "trainer.strategy=ddp_find_unused_parameters_true"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densenet_suite.report.pictures.TrainPictures", lambda *_: diary)
        return train(tiny_config, [*FIXED, *TWO, strategy, f"output={output}"], launcher="ray")


def test_a_worker_that_is_killed_is_replaced_and_no_epoch_is_missing_or_double(killed):
    summary = killed.summary
    assert summary["status"] == "finished"
    assert summary["faults"] == {"lost_workers": 1}
    with open(killed.metrics_path) as file:
        assert [(row["epoch"], row["step"]) for row in csv.DictReader(file)] == [
            ("1", "3"),
            ("2", "6"),
            ("3", "9"),
            ("4", "12"),
        ]
    log = (killed.dir / "log.txt").read_text()
    assert "worker 1 of the run was lost; the workers are replaced, from the last checkpoint" in log
    assert not (killed.dir / "ray").exists()
    assert not (killed.dir / "stop").exists()


def test_at_most_the_steps_since_the_last_checkpoint_are_repeated(killed):
    for rank in (0, 1):
        rows = _drawn(killed.dir.parent, rank)
        assert [row[1] for row in rows] == [0, 1, 2, 2, 3]  # the third epoch is begun again, and it alone
        assert len({row[0] for row in rows}) == 2  # in another process
        assert rows[2][4:] == rows[3][4:]
        assert {row[3] for row in rows} == {2}


def test_two_workers_learn_what_one_process_with_the_doubled_batch_does(killed, tiny_config, tmp_path):
    alone = [*FIXED, "train.batch=4", f"output={tmp_path}"]
    one = train(tiny_config, alone)
    start = train(tiny_config, [*alone, "train.optimizer.lr=1.0e-12"])
    ends = [torch.load(run.last_checkpoint) for run in (killed, one, start)]
    assert [end["global_step"] for end in ends] == [12, 12, 12]
    moved = [(value - ends[2]["state_dict"][name]).abs().max() for name, value in ends[1]["state_dict"].items()]
    assert max(moved) > 1e-3
    torch.testing.assert_close(ends[0]["state_dict"], ends[1]["state_dict"], rtol=1e-5, atol=1e-6)


def test_the_run_is_reported_and_is_not_trained_again(killed):
    assert json.loads((killed.dir / "eval" / "val" / "metrics.json").read_text())["AP"] is not None
    assert (killed.dir / "report.html").is_file()
    before = (killed.dir / "log.txt").stat().st_size
    assert resume(killed.dir, launcher="ray").summary == killed.summary  # finished: no worker is started
    assert "nothing to resume" in (killed.dir / "log.txt").read_text()[before:]


class Fault(L.Callback):
    """Raises in the second worker."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1:
            raise DataError("box is empty", where="a.json", hint="mend it")


@pytest.fixture(scope="module")
def faulty(cluster, synthetic, tiny_config, tmp_path_factory):
    """Return the folder of a run on shards in which a worker raises an error, and the error that arrived."""
    output = tmp_path_factory.mktemp("faulty")
    convert_data(synthetic, out=output / "out", to="shards", task="detection", shard_mb=1)
    run = Run.create(load_config(tiny_config, [*TWO, f"data.root={output / 'out'}", f"output={output}"]))
    with pytest.raises(SuiteError) as raised:
        fit_on_ray(run, callbacks=[Diary(output), Fault()])
    return run, raised.value


def test_what_a_worker_raises_reaches_the_user_as_it_was_and_is_not_tried_again(faulty):
    run, error = faulty
    assert isinstance(error, DataError)
    assert str(error) == "box is empty  (a.json)\n  hint: mend it"
    assert error.exit_code == 3
    assert (run.dir / "log.txt").read_text().count("run folder") == 1


def test_each_worker_reads_its_own_part_of_the_shards(faulty):
    run, _ = faulty
    parts = [set(row[4:]) for rank in (0, 1) for row in _drawn(run.dir.parent, rank)]
    assert [len(part) for part in parts] == [6, 6]
    assert parts[0] | parts[1] == set(range(12))
    assert "sharded tars" in (run.dir / "log.txt").read_text()


def test_an_error_of_the_program_is_told_from_a_worker_that_is_lost(cluster):
    from ray.exceptions import ActorDiedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    def cause(*failures):
        return ray_launcher._cause(WorkerGroupError("Traceback ...", dict(enumerate(failures))))

    torn = LostProcessError("another process of this run has ended")
    faulty = DataError("box is empty")
    assert cause(torn, faulty) is faulty
    assert str(cause(torn, ActorDiedError())) == "worker 1 of the run was lost"
    assert str(cause(torn)) == "a worker of the run was lost"
    found = cause(torn, KeyError("x"))
    assert isinstance(found, KeyError)
    assert "Traceback" in found.__notes__[0]


def test_a_run_that_loses_workers_again_and_again_ends(tiny_config, tmp_path, monkeypatch):
    attempts = []

    def lose(*_):
        attempts.append(1)
        raise LostProcessError("worker 1 of the run was lost")

    _without_cluster(monkeypatch, lose)
    run = Run.create(load_config(tiny_config, [*TWO, f"output={tmp_path}"]))
    with pytest.raises(SuiteError, match="workers were lost 4 times in a row without a checkpoint between"):
        fit_on_ray(run)
    assert len(attempts) == 4
    assert run.summary["status"] == "failed"
    assert run.summary["faults"] == {"lost_workers": 4}


def test_losses_with_checkpoints_between_are_all_made_good(tiny_config, tmp_path, monkeypatch):
    attempts = []

    def lose(run, workers, cores, settings):
        attempts.append(settings["resume"])
        run.last_checkpoint.write_bytes(b"")
        os.utime(run.last_checkpoint, (len(attempts), len(attempts)))
        if len(attempts) < 7:
            raise LostProcessError("worker 1 of the run was lost")

    _without_cluster(monkeypatch, lose)
    run = Run.create(load_config(tiny_config, [*TWO, f"output={tmp_path}"]))
    fit_on_ray(run)
    assert attempts == [False] + 6 * [True]
    assert run.summary["faults"] == {"lost_workers": 6}


def test_a_signal_is_handed_to_the_workers(tiny_config, tmp_path, monkeypatch):
    def work(run, workers, cores, settings):
        os.kill(os.getpid(), signal.SIGTERM)
        (wishes,) = settings["callbacks"]
        trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", callbacks=[wishes])
        trainer.callbacks.append(interruption := Interruption(run.dir, run.last_checkpoint))
        wishes.on_train_batch_end(trainer)
        assert interruption.received == signal.SIGTERM
        raise InterruptedRunError(interruption.received, run.dir)

    _without_cluster(monkeypatch, work)
    run = Run.create(load_config(tiny_config, [*TWO, f"output={tmp_path}"]))
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRunError, match="SIGTERM: training was interrupted") as stopped:
        fit_on_ray(run)
    assert stopped.value.exit_code == 143
    assert not (run.dir / "stop").exists()
    assert signal.getsignal(signal.SIGTERM) is former


def _without_cluster(monkeypatch, train_workers):
    from contextlib import nullcontext

    monkeypatch.setattr(ray_launcher, "is_installed", lambda package: True)
    monkeypatch.setattr(ray_launcher, "_cluster", lambda workers: nullcontext((workers, 1)))
    monkeypatch.setattr(ray_launcher, "_log_of_workers", nullcontext)
    monkeypatch.setattr(ray_launcher, "_train_workers", train_workers)


def test_without_ray_the_extra_is_named_and_no_run_is_begun(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray_launcher, "is_installed", lambda package: False)
    overrides = [*TWO, f"output={tmp_path / 'runs'}"]
    with pytest.raises(MissingExtraError, match="training on Ray needs a package that is not installed"):
        train(tiny_config, overrides, launcher="ray")
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(tiny_config), *overrides, "--launcher", "ray"])
    assert ended.value.code == 4
    assert 'pip install "densenet-suite[ray]"' in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "trainer.devices is None, and Ray is told how many workers to start"),
        (["trainer.devices=auto"], "trainer.devices is 'auto', and Ray is told how many"),
        (["trainer.devices=2", "trainer.num_nodes=0"], "trainer.num_nodes is 0"),
        (["trainer.devices=2", "trainer.strategy=ddp_spawn"], "trainer.strategy=ddp_spawn cannot be had on Ray"),
        (["trainer.devices=2", "trainer.accelerator=tpu"], "trainer.accelerator=tpu cannot be had on Ray"),
    ],
)
def test_what_cannot_be_had_on_ray_is_refused(tiny_config, monkeypatch, overrides, said):
    monkeypatch.setattr(ray_launcher, "is_installed", lambda package: True)
    with pytest.raises(ConfigError, match=said):
        Workers.of(load_config(tiny_config, overrides))


def test_workers_are_devices_times_machines(tiny_config, monkeypatch):
    monkeypatch.setattr(ray_launcher, "is_installed", lambda package: True)
    config = load_config(tiny_config, ["trainer.devices=2", "trainer.num_nodes=3", "trainer.accelerator=auto"])
    assert Workers.of(config) == Workers(6, None, False)


def test_a_machine_with_too_few_gpus_is_refused(cluster, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    with (
        pytest.raises(ConfigError, match="2 workers need a GPU each, and this machine has 1"),
        ray_launcher._cluster(Workers(2, True, False)),
    ):
        pass


def test_an_unknown_launcher_is_refused(tiny_config):
    with pytest.raises(ConfigError, match="there is no launcher 'slurm'"):
        train(tiny_config, TWO, launcher="slurm")
