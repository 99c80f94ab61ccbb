"""Another backbone by one key: train, save, reload from the run folder alone, predict."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from densenet_suite import load, predict, train


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("timm/resnet18", (64, 64, 128, 256, 512)),
        ("efficientnet_b1", (16, 24, 40, 112, 320)),
        ("tf_efficientnet_lite0", (16, 24, 40, 112, 320)),
        ("timm/convnext_atto", (40, 80, 160, 320)),
        ("efficientnet(phi=-3)", None),
    ],
)
def test_a_backbone_is_swapped_by_one_key(
    tiny_config: Path, synthetic: Path, tmp_path: Path, backbone: str, channels: tuple[int, ...] | None
) -> None:
    run = train(tiny_config, [f"output={tmp_path}", f"model.backbone={backbone}", "trainer.limit_train_batches=1"])
    assert run.summary["steps"] == 1
    moved = run.dir.rename(tmp_path / "moved")
    model = load(moved)
    if channels is not None:
        assert tuple(model.backbone.channels) == channels
    found = list(predict(moved, synthetic / "images" / "test", score_threshold=0.0))
    assert len(found) == 3
    assert all(np.isfinite(prediction.boxes).all() for prediction in found)


def test_a_trained_model_starts_another_run_on_other_classes(trained_run, synthetic: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(synthetic, data)
    for path in (data / "annotations").iterdir():
        path.write_text(path.read_text().replace('"disc"', '"coin"'))
    changes = [f"output={tmp_path}", f"data.root={data}", f"model.weights={trained_run.dir}"]
    run = train(trained_run.config_path, [*changes, "trainer.limit_train_batches=1"])
    text = (run.dir / "log.txt").read_text()
    assert "3 of 4 classes by name" in text
    assert "class 'coin'" in text
    assert load(run.dir).classes.names == ("coin", "square", "triangle", "star")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.backbone=timm/resnet18"],
        ["model.backbone=tf_efficientnet_lite0"],
        ["model.backbone=timm/convnext_atto", "model.decoder=upernet"],
        ["model.decoder=fpn"],
        ["model.decoder=bifpn"],
    ],
    ids=" ".join,
)
def test_a_segmenters_backbone_and_decoder_are_swapped_by_one_key(
    tiny_segmenter_config: Path, synthetic: Path, tmp_path: Path, overrides: list[str]
) -> None:
    run = train(tiny_segmenter_config, [f"output={tmp_path}", *overrides, "trainer.limit_train_batches=1"])
    assert run.summary["steps"] == 1
    moved = run.dir.rename(tmp_path / "moved")
    found = list(predict(moved, synthetic / "images" / "test"))
    assert [prediction.mask.shape for prediction in found] == [(64, 96)] * 3


def test_a_detectors_backbone_starts_a_segmenter(
    trained_run, tiny_segmenter_config: Path, synthetic: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from densenet_suite.backbones.weights import export_tensors

    save_file(export_tensors(load(trained_run.dir).backbone, "timm"), tmp_path / "backbone.safetensors")
    changes = [f"output={tmp_path}", f"model.weights={tmp_path / 'backbone.safetensors'}"]
    run = train(tiny_segmenter_config, [*changes, "trainer.limit_train_batches=1"])
    assert "tensors loaded" in (run.dir / "log.txt").read_text()
