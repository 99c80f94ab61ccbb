"""A run that is stopped, moved and resumed ends to the bit as one that was left alone, however it is set up."""

import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from faults.stops import SignalAt
from safetensors.torch import load_file

from densenet_suite.config.load import load_config, save_config
from densenet_suite.training.fit import fit
from densenet_suite.training.interruption import InterruptedRunError
from densenet_suite.training.run import Run

# every case has averaged weights; 12 images make 6 batches an epoch; a place is (stage, epoch, batch)
CASES = {
    "with mosaic, in an epoch and at its end": (
        ["data.workers=2"],
        ["augment.preset=strong", "augment.mosaic=1.0", "augment.plain_epochs=0"],
        [("train", 0, 2), ("train", 0, 5)],
    ),
    "accumulated, in a step, twice in a row": (
        ["data.workers=1"],
        ["train.accumulate=3", "model.drop_path=0.2"],
        [("train", 0, 1), ("train", 0, 4)],
    ),
    "in an evaluation, and in the batch after it": ([], [], [("val", 0, 1), ("train", 1, 0)]),
}
PARTS = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "recent_images")


@pytest.mark.parametrize("config_name", ["tiny_config", "tiny_segmenter_config"], ids=["detection", "segmentation"])
@pytest.mark.parametrize("case", CASES)
def test_the_ends_are_the_same(request: pytest.FixtureRequest, tmp_path: Path, config_name: str, case: str) -> None:
    workers, overrides, stops = CASES[case]
    path = request.getfixturevalue(config_name)
    common = [f"output={tmp_path}", "train.epochs=2", "train.batch=2", "train.recalibrate=20", *overrides]
    whole = Run.create(load_config(path, ["name=whole", *common]))
    fit(whole.config, whole)
    stopped = Run.create(load_config(path, ["name=stopped", *common, *workers]))
    for i, place in enumerate(stops):
        with pytest.raises(InterruptedRunError):
            fit(stopped.config, stopped, resume=i > 0, callbacks=[SignalAt(place)])
        assert not multiprocessing.active_children()
    moved = Run(Path(shutil.move(stopped.dir, tmp_path / "elsewhere" / "moved")))
    save_config(load_config(moved.config_path, ["data.workers=0"]), moved.config_path)  # other workers, same samples
    fit(moved.config, moved, resume=True)

    ours, theirs = (torch.load(run.last_checkpoint) for run in (moved, whole))
    for part in PARTS:
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    averages = [checkpoint["callbacks"]["EvaluationWeights"] for checkpoint in (ours, theirs)]
    torch.testing.assert_close(*averages, rtol=0, atol=0)
    torch.testing.assert_close(load_file(moved.model_path), load_file(whole.model_path), rtol=0, atol=0)
    assert moved.metrics_path.read_text() == whole.metrics_path.read_text()
