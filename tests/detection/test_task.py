import logging
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from scenes import tiny_detector, write_coco

from densenet_suite import ConfigError, DetectionData, DetectionTask, Postprocess, Recipe
from densenet_suite.detection.loss import detection_loss


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)


@pytest.fixture
def data(synthetic):
    return DetectionData(synthetic, (64, 96), 4, workers=0)


@pytest.fixture
def batch(data):
    return next(iter(data.eval_dataloader("train")))


def state_of(model, part):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith(part)}


def unchanged(before, after):
    return {name for name in before if torch.equal(before[name], after[name])}


def test_the_step_gives_the_loss_of_the_batch(batch, monkeypatch):
    task = DetectionTask(tiny_detector(4, drop_path=0.0))
    added = {}
    monkeypatch.setattr(task.means, "add", lambda terms, images: added.update(terms) or added.update(images=images))
    loss = task.training_step(batch, 0)
    expected = detection_loss(task.model(batch.images), batch.boxes, batch.labels)
    torch.testing.assert_close(loss, expected.total)
    assert loss.requires_grad
    assert set(added) == {"train/loss", "train/class_loss", "train/box_loss", "images"}
    assert added["images"] == len(batch)


def test_a_validation_epoch_logs_losses_and_scores(data):
    task = DetectionTask(tiny_detector(4), postprocess=Postprocess(max_detections=30))
    runner = trainer(max_epochs=1)
    runner.validate(task, data, verbose=False)
    expected = {"loss", "class_loss", "box_loss", "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"}
    expected |= {"AR_1", "AR_10", "AR_30"}
    assert set(runner.callback_metrics) == {f"val/{name}" for name in expected}
    assert len(task.evaluator.detections()) == 5
    assert task.scores.summary["AP"] == pytest.approx(float(runner.callback_metrics["val/AP"]))


def test_an_average_that_is_not_defined_counts_as_minus_one(tmp_path):
    root = write_coco(tmp_path, [((64, 96), [{"bbox": [8, 8, 20, 20]}])] * 2)  # nothing large
    data = DetectionData(write_coco(root, [((64, 96), [{"bbox": [8, 8, 20, 20]}])], "val"), (64, 96), 1, workers=0)
    task, runner = DetectionTask(tiny_detector(3)), trainer(max_epochs=1)
    runner.validate(task, data, verbose=False)
    assert runner.callback_metrics["val/AP_large"] == -1
    assert task.scores.summary["AP_large"] is None


def test_a_fit_changes_every_parameter_and_logs_each_epoch(data):
    model = tiny_detector(4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    runner = trainer(max_epochs=1)
    runner.fit(DetectionTask(model, Recipe(lr=0.5, warmup_epochs=0)), data)
    still = [name for name, p in model.named_parameters() if torch.equal(before[name], p)]
    assert [name for name in still if not name.startswith("box_head.norms")] == []  # of levels without an object
    assert {"train/loss", "train/class_loss", "train/box_loss", "val/AP", "val/loss"} <= set(runner.callback_metrics)


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start")  # Lightning wonders at the frozen norms
def test_frozen_parts_and_their_statistics_do_not_move(data):
    model = tiny_detector(4)
    backbone, neck = state_of(model, "backbone."), state_of(model, "bifpn.")
    task = DetectionTask(model, Recipe(lr=0.5, warmup_epochs=0), freeze_patterns=["backbone.*"])
    trainer(max_epochs=1, limit_val_batches=0).fit(task, data)
    assert unchanged(backbone, model.state_dict()) == set(backbone)
    moving = {name for name in neck if name.endswith("running_mean")}
    assert moving
    assert not moving & unchanged(neck, model.state_dict())


def test_frozen_parts_renew_their_statistics_where_that_is_wanted(batch):
    model = tiny_detector(4)
    before = state_of(model, "backbone.")
    task = DetectionTask(model, freeze_patterns=["backbone.*"], norms_of_frozen="updated")
    task.train()
    task.model(batch.images)
    same = unchanged(before, model.state_dict())
    assert same == {name for name in before if not name.endswith(("running_mean", "running_var", "tracked"))}


def test_norms_of_which_a_part_is_trained_keep_learning():
    task = DetectionTask(tiny_detector(4), freeze_patterns=["backbone.*.weight"])
    task.train()
    assert all(module.training for module in task.model.modules())


def test_an_evaluation_switches_frozen_norms_back_to_fixed(batch):
    task = DetectionTask(tiny_detector(4), freeze_patterns=["backbone.*"])
    task.eval()
    task.train()
    norms = [module for module in task.model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert task.model.bifpn.training


def test_frozen_norms_stay_fixed_when_processes_share_theirs():
    task = DetectionTask(tiny_detector(4), freeze_patterns=["backbone.*"])
    TorchSyncBatchNorm().apply(task)
    task.eval()
    task.train()
    norms = [norm for norm in task.model.backbone.modules() if isinstance(norm, torch.nn.SyncBatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_what_is_frozen_is_said(caplog):
    with caplog.at_level(logging.INFO):
        DetectionTask(tiny_detector(4), freeze_patterns=["backbone.stem.*"])
    assert "frozen: 3 tensors, statistics of their batch norms fixed" in caplog.text


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"the pattern 'backbon\.\*' matches no parameter"):
        DetectionTask(tiny_detector(4), freeze_patterns=["backbon.*"])


@pytest.mark.parametrize(
    ("steps", "head", "backbone"),
    [(10, 0.1, 0.1), (1000, 0.02, 0.1), (100_000, 0.01, 0.1)],  # 5 % of the run; never slower than published
)
def test_statistics_look_back_on_a_twentieth_of_a_short_run(steps, head, backbone, monkeypatch):
    model = tiny_detector(4)
    task = DetectionTask(model)
    monkeypatch.setattr(DetectionTask, "trainer", SimpleNamespace(estimated_stepping_batches=steps))
    task.on_fit_start()
    assert model.bifpn.cells[0].nodes[0].norm.momentum == pytest.approx(head)
    assert model.class_head.norms[0][0].momentum == pytest.approx(head)
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == pytest.approx([backbone] * len(norms))
