"""Whole runs of a tiny detector, and of a tiny segmenter where both must keep the same promise."""

import json
import math
import shutil
import traceback
from collections import Counter
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from densenet_suite import ConfigError, DataError, Recipe, create_detector, resume, train
from densenet_suite.config.load import load_config
from densenet_suite.training.fit import fit
from densenet_suite.training.metrics_log import read_metrics
from densenet_suite.training.run import Run


class PowerCut(L.Callback):
    """Stops a run in the middle of an epoch."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            raise RuntimeError("power cut")


def start(config: Path, folder: Path, *overrides: str, callbacks: tuple[L.Callback, ...] = ()) -> Run:
    checked = load_config(config, [f"output={folder}", *overrides])
    run = Run.create(checked)
    fit(checked, run, callbacks=callbacks)
    return run


@pytest.fixture(scope="module", params=["tiny_config", "tiny_segmenter_config"], ids=["detection", "segmentation"])
def stopped_and_resumed(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Return a run that went through, and one that was cut in its third epoch, damaged and resumed."""
    tiny_config = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("resume")
    overrides = ["train.epochs=4", "model.drop_path=0.2"]
    whole = start(tiny_config, folder, "name=whole", *overrides)
    with pytest.raises(RuntimeError, match="power cut"):
        start(tiny_config, folder, "name=cut", *overrides, callbacks=(PowerCut(2),))
    cut = Run(folder / "cut-001")
    assert cut.summary["status"] == "failed"
    assert [torch.load(path)["epoch"] for path in (cut.last_checkpoint, cut.previous_checkpoint)] == [1, 0]
    cut.last_checkpoint.write_bytes(cut.last_checkpoint.read_bytes()[:-2000])
    return whole, resume(cut.dir)


def test_a_resumed_run_ends_with_the_same_weights(stopped_and_resumed: tuple[Run, Run]) -> None:
    whole, cut = (torch.load(run.last_checkpoint) for run in stopped_and_resumed)
    assert whole["global_step"] == cut["global_step"] == 12
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(cut[part], whole[part], rtol=0, atol=0)


def test_a_resumed_run_keeps_the_same_best_model(stopped_and_resumed: tuple[Run, Run]) -> None:
    whole, cut = (load_file(run.model_path) for run in stopped_and_resumed)
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)


def test_metrics_survive_a_resume_without_gaps_or_doubles(stopped_and_resumed: tuple[Run, Run]) -> None:
    whole, cut = (run.metrics_path.read_text() for run in stopped_and_resumed)
    assert cut == whole
    assert [row["epoch"] for row in read_metrics(stopped_and_resumed[1].metrics_path)] == ["1", "2", "3", "4"]


class Waits(TorchDispatchMode):
    """Counts where the host asks for numbers, for which it waits where a device computes them."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self.tolist = torch.Tensor.tolist

    def __enter__(self):
        def counted(tensor):
            self.count()
            return self.tolist(tensor)

        torch.Tensor.tolist = counted
        return super().__enter__()

    def __exit__(self, *exception):
        torch.Tensor.tolist = self.tolist
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "_local_scalar_dense":
            self.count()
        return func(*args, **(kwargs or {}))

    def count(self) -> None:
        files = (Path(frame.filename) for frame in reversed(traceback.extract_stack()))
        self.places[next(file.stem for file in files if {"densenet_suite", "lightning"} & set(file.parts))] += 1


class InSteps(L.Callback):
    """Keeps what was counted from the first step of an epoch to the end of its last."""

    def __init__(self, waits: Waits):
        self.waits = waits
        self.steps = 0
        self.places: Counter[str] = Counter()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 0:
            self.waits.places.clear()
        self.steps += 1

    def on_validation_start(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self.places += self.waits.places


@pytest.mark.parametrize("config", ["tiny_config", "tiny_segmenter_config"])
def test_a_run_waits_for_the_device_once_in_a_step(request, config: str, tmp_path: Path) -> None:
    """For the loss, and whether the gradients are finite; for nothing else, of the log above all."""
    with Waits() as waits:
        start(request.getfixturevalue(config), tmp_path, "train.epochs=2", callbacks=(counted := InSteps(waits),))
    assert counted.steps == 6
    assert counted.places == {"finite_steps": counted.steps}


def test_the_log_goes_on_after_a_resume(stopped_and_resumed: tuple[Run, Run]) -> None:
    text = (stopped_and_resumed[1].dir / "log.txt").read_text()
    assert "power cut" in text
    assert "checkpoint is damaged: it does not end with its checksum" in text
    assert text.count("epoch 2/4") == 2
    assert text.count("epoch 3/4") == 1
    assert text.count("epoch 4/4") == 1


def test_a_finished_run_is_not_trained_again(stopped_and_resumed: tuple[Run, Run]) -> None:
    run = stopped_and_resumed[0]
    before = run.last_checkpoint.stat().st_mtime_ns
    resume(run.dir)
    assert run.last_checkpoint.stat().st_mtime_ns == before
    assert "nothing to resume" in (run.dir / "log.txt").read_text()


def test_a_run_that_has_lost_its_checkpoints_says_so(trained_run: Run, tmp_path: Path) -> None:
    shutil.copytree(trained_run.dir, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    (tmp_path / "copy" / "checkpoints" / "last.ckpt").unlink()
    with open(tmp_path / "copy" / "metrics.csv", "a") as file:
        file.write("2,6\n")
    with pytest.raises(ConfigError, match="no checkpoint to continue from"):
        resume(tmp_path / "copy")


def test_a_damaged_checkpoint_is_named(trained_run: Run, tmp_path: Path) -> None:
    shutil.copytree(trained_run.dir, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    checkpoint = tmp_path / "copy" / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match="checkpoint is damaged") as raised:
        resume(tmp_path / "copy")
    assert str(checkpoint) in str(raised.value)


def test_last_is_the_last_epoch_and_best_the_best(tiny_config: Path, tmp_path: Path, monkeypatch) -> None:
    from densenet_suite.detection import task

    falling = iter([0.9, 0.5, 0.4])
    compute = task.CocoEvaluator.compute

    def scored(self):
        scores = compute(self)
        scores.summary["AP"] = next(falling)
        return scores

    monkeypatch.setattr(task.CocoEvaluator, "compute", scored)
    run = start(tiny_config, tmp_path, "train.epochs=3")
    epochs = {name: torch.load(run.dir / "checkpoints" / f"{name}.ckpt")["epoch"] for name in ("best", "last")}
    assert epochs == {"best": 0, "last": 2}
    assert (run.summary["best_epoch"], run.summary["best_score"]) == (1, pytest.approx(0.9))


def test_early_stopping_ends_a_run_that_gets_no_better(tiny_config: Path, tmp_path: Path) -> None:
    run = start(tiny_config, tmp_path, "train.epochs=9", "train.early_stop.patience=1", "train.early_stop.min_delta=2")
    assert run.summary["epochs"] == 2


def test_epochs_that_are_not_evaluated_leave_their_scores_blank(tiny_config: Path, tmp_path: Path) -> None:
    run = start(tiny_config, tmp_path, "train.epochs=2", "trainer.check_val_every_n_epoch=2")
    first, second = read_metrics(run.metrics_path)
    assert first["train/loss"]
    assert not first.get("val/AP")
    assert second["val/AP"]
    assert torch.load(run.last_checkpoint)["epoch"] == 1


def test_a_run_without_validation_keeps_its_last_weights(tiny_config: Path, synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic, tmp_path / "data")
    (tmp_path / "data" / "annotations" / "instances_val.json").unlink()
    run = train(tiny_config, [f"output={tmp_path}", f"data.root={tmp_path / 'data'}", "data.holdout=0"])
    assert run.summary["best_score"] is None
    assert run.model_path.is_file()
    assert "n/a" not in (run.dir / "report.html").read_text().split("<h2>Config")[0]
    assert not (run.dir / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.precision=bf16-mixed"],
        ["train.accumulate=2"],
        ["train.ema=0"],
        ["train.ema=0", "train.recalibrate=0"],
        ["train.optimizer.name=adamw", "train.optimizer.lr=0.001"],
        ["model.checkpointing=true"],
        ["model.in_channels=1"],
        ["train.freeze=[backbone.stem.*, backbone.stages.0.*]"],
        ["train.clip=0"],
        ["postprocess.nms=soft"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_a_setting_trains(tiny_config: Path, tmp_path: Path, overrides: list[str]) -> None:
    run = start(tiny_config, tmp_path, *overrides)
    (row,) = read_metrics(run.metrics_path)
    assert math.isfinite(float(row["train/loss"]))
    assert math.isfinite(float(row["val/loss"]))
    assert run.summary["status"] == "finished"


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.precision=bf16-mixed"],
        ["train.accumulate=2"],
        ["train.ema=0", "train.recalibrate=0"],
        ["train.optimizer.name=sgd", "train.optimizer.lr=0.1"],
        ["model.in_channels=1"],
        ["model.attention=scse", "model.norm=group"],
        ["model.deep_supervision=true", "data.crop=[40, 72]"],
        ["model.decoder=deeplabv3plus"],
        ["model.decoder=bifpn"],
        ["loss.terms=[{name: focal}, {name: tversky}, {name: lovasz, weight: 0.5}, {name: boundary, weight: 0.1}]"],
        ["loss.class_weights=balanced"],
        ["loss.class_weights={background: 0.5, disc: 1.0, square: 1.0, triangle: 1.0, star: 2.0}"],
        [
            "data.multilabel=true",
            "data.classes={disc: 1, square: 2, triangle: 3, star: 4}",
            "data.nearest_colour=false",
        ],
        ["data.classes=null"],
        ["data.scale=0.5"],
        ["tiles.size=64", "tiles.overlap=16"],
        ["augment.rotate=20.0", "augment.elastic=2.0", "augment.rotate90=1.0"],
        ["train.freeze=[backbone.*]"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_a_setting_of_segmentation_trains(tiny_segmenter_config: Path, tmp_path: Path, overrides: list[str]) -> None:
    run = start(tiny_segmenter_config, tmp_path, *overrides)
    (row,) = read_metrics(run.metrics_path)
    assert math.isfinite(float(row["train/loss"]))
    assert math.isfinite(float(row["val/loss"]))
    assert 0 <= float(row["val/mIoU"]) <= 1
    assert run.summary["status"] == "finished"


def test_weights_for_other_classes_than_the_datas_are_refused(tiny_segmenter_config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss.class_weights names disc; the classes are background, disc, square"):
        start(tiny_segmenter_config, tmp_path, "loss.class_weights={disc: 2.0}")


def test_accumulation_takes_one_step_for_several_batches(tiny_config: Path, tmp_path: Path) -> None:
    assert start(tiny_config, tmp_path, "train.accumulate=3").summary["steps"] == 1


def test_frozen_parameters_do_not_move(tiny_config: Path, tmp_path: Path) -> None:
    run = start(tiny_config, tmp_path, "train.freeze=[backbone.*]", "train.epochs=2", "train.recalibrate=8")
    first = start(tiny_config, tmp_path, "train.freeze=[backbone.*]", "train.epochs=1", "train.recalibrate=8")
    one, two = load_file(first.model_path), load_file(run.model_path)
    last = torch.load(run.last_checkpoint)["state_dict"]
    for name, tensor in one.items():
        if name.startswith("backbone."):
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=0)
            torch.testing.assert_close(last[f"model.{name}"], tensor, rtol=0, atol=0)
    assert not torch.equal(last["model.box_head.predict.pointwise.weight"], one["box_head.predict.pointwise.weight"])


def test_warnings_about_the_data_are_said_and_kept(tiny_config: Path, synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic, tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    run = start(tiny_config, tmp_path, f"data.root={tmp_path / 'data'}")
    findings = json.loads((run.dir / "data_report.json").read_text())["splits"][0]["findings"]
    (finding,) = (finding for finding in findings if finding["check"] == "box-without-area")
    assert finding["count"] == 1
    assert finding["examples"][0] in (run.dir / "log.txt").read_text()


def test_images_that_are_trained_and_validated_on_are_counted(
    tiny_config: Path, synthetic: Path, tmp_path: Path
) -> None:
    names = ["data.val.annotations=annotations/instances_train.json", "data.val.images=images/train"]
    run = start(tiny_config, tmp_path, *names)
    val = json.loads((run.dir / "data_report.json").read_text())["splits"][1]
    assert (val["split"], val["findings"][0]["check"], val["findings"][0]["count"]) == ("val", "shared-image", 12)


def test_no_training_split_is_said_with_what_is_there(tiny_config: Path, synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic, tmp_path / "data")
    (tmp_path / "data" / "annotations" / "instances_train.json").unlink()
    with pytest.raises(ValueError, match=r"there is no train split \(found: val, test\)"):
        start(tiny_config, tmp_path, f"data.root={tmp_path / 'data'}")


def test_tensorboard_is_written_where_it_is_installed(trained_run: Run) -> None:
    assert list((trained_run.dir / "tensorboard").glob("events.*"))


def test_without_tensorboard_a_run_is_the_same(tiny_config: Path, tmp_path: Path, monkeypatch) -> None:
    from densenet_suite.training import fit as module

    monkeypatch.setattr(module, "is_installed", lambda package: False)
    run = start(tiny_config, tmp_path)
    assert run.metrics_path.is_file()
    assert not (run.dir / "tensorboard").exists()


def test_the_learning_rate_follows_the_recipe(tiny_config: Path, tmp_path: Path) -> None:
    rates: list[float] = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    start(tiny_config, tmp_path, "train.epochs=2", "train.warmup_epochs=1", callbacks=(Rates(),))
    peak = 0.08 * 4 / 64  # linear in the batch
    warmup = [peak * (step + 1) / 4 for step in range(3)]
    cosine = [peak * 0.5 * (1 + math.cos(math.pi * step / 3)) for step in range(3)]
    assert rates == pytest.approx(warmup + cosine)


def test_plain_lightning_trains_our_modules(synthetic: Path, tmp_path: Path) -> None:
    import densenet_suite as ds

    data = ds.DetectionData(synthetic, (64, 96), 4)
    model = create_detector("efficientdet_d0", classes=data.classes, backbone="efficientnet(width=0.25, depth=0.25)")
    task = ds.DetectionTask(model, Recipe(lr=0.01))
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[ds.EvaluationWeights(0.9, 8)],
        default_root_dir=tmp_path,
    )
    trainer.fit(task, data)
    assert trainer.global_step == 2
    assert task.scores is None or "AP" in task.scores.summary


def test_plain_lightning_trains_our_segmenters(synthetic: Path, tmp_path: Path) -> None:
    import densenet_suite as ds

    data = ds.SegmentationData(synthetic, (64, 64), 4)
    model = ds.create_segmenter("unet", classes=data.classes, backbone="efficientnet(width=0.25, depth=0.25)")
    task = ds.SegmentationTask(model, Recipe("adamw", lr=0.01), [ds.LossTerm("dice")])
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[ds.EvaluationWeights(0.9, 8)],
        default_root_dir=tmp_path,
    )
    trainer.fit(task, data)
    assert trainer.global_step == 2
    trainer.validate(task, data, verbose=False)
    assert task.scores is not None
    assert "mIoU" in task.scores.summary


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_while_training_is_named_without_a_traceback(
    tiny_config: Path, synthetic: Path, tmp_path: Path, workers: int
) -> None:
    shutil.copytree(synthetic, tmp_path / "data")
    for picture in (tmp_path / "data" / "images" / "train").iterdir():
        picture.write_bytes(picture.read_bytes()[:-300])  # the header, which is checked first, is whole
    place = r"\S*train_\d+\.jpg; sample \d+ of epoch 0, reading the picture"
    with pytest.raises(DataError, match=rf"^image file is damaged: .*\({place}\)$") as raised:
        start(tiny_config, tmp_path, f"data.root={tmp_path / 'data'}", f"data.workers={workers}")
    assert "Traceback" not in str(raised.value)
