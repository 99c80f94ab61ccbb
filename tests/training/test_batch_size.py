"""`train.batch: auto`: the number that fits, and a run that knows nothing of how it was found."""

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.test_memory import SmallMemory
from torch import Tensor

from densenet_suite import ConfigError, evaluate
from densenet_suite.augment import AugmentPolicy
from densenet_suite.config.load import load_config
from densenet_suite.errors import SuiteError
from densenet_suite.processes import Launch
from densenet_suite.segmentation.samples import noise
from densenet_suite.segmentation.structures import MaskClasses
from densenet_suite.training import free_memory
from densenet_suite.training.averaging import EvaluationWeights
from densenet_suite.training.batch_size import Probe, most_that_fit, rounded
from densenet_suite.training.fit import fit, quiet
from densenet_suite.training.free_memory import DeviceMemory, Room
from densenet_suite.training.run import Run
from densenet_suite.training.slices import SLICES
from densenet_suite.verbs.dataset import open_dataset

CONFIGS = pytest.mark.parametrize("config_name", ["tiny_config", "tiny_segmenter_config"])
ROOM = Room(1000, 900)


class Steps:
    """A step that takes so many bytes, and so many for each image; above some number of images there are none."""

    def __init__(self, base: int, image: int, most: int = 10**9, bend: Callable[[int], int] = lambda images: 0):
        self.base, self.image, self.most, self.bend = base, image, most, bend
        self.tried: list[int] = []

    def __call__(self, images: int) -> int | None:
        self.tried.append(images)
        return None if images > self.most else self.base + self.image * images + self.bend(images)


# the number


@pytest.mark.parametrize(
    ("base", "image", "most", "images"),
    [
        (100, 10, 64, 64),  # 80 would fit
        (100, 10, 1000, 80),
        (100, 20, 64, 40),
        (100, 30, 64, 24),  # 26 would fit: a multiple of eight
        (0, 120, 64, 6),  # 7 would: an even number
        (500, 99, 64, 4),
        (500, 120, 64, 2),
        (100, 10, 12, 8),
        (100, 10, 5, 4),
        (100, 10, 3, 2),
        (100, 10, 2, 2),
        (100, 10, 1, 1),
        (700, 0, 64, 64),
    ],
)
def test_it_is_the_largest_that_fits_and_can_be_halved(base: int, image: int, most: int, images: int) -> None:
    steps = Steps(base, image)
    found = most_that_fit(steps, ROOM, most, confirm=False)
    assert found.images == images
    assert set(steps.tried) <= {2, 4}


def test_it_says_what_an_image_and_the_step_take() -> None:
    found = most_that_fit(Steps(100, 20), ROOM, 64, confirm=False)
    assert (found.image, found.step) == (20, 900)


def test_memory_that_only_an_attempt_can_tell_is_tried() -> None:
    steps = Steps(100, 20)
    assert most_that_fit(steps, ROOM, 64, confirm=True).images == 40
    assert steps.tried == [2, 4, 40]


def test_what_does_not_fit_in_the_attempt_is_halved() -> None:
    steps = Steps(100, 20, most=15)
    assert most_that_fit(steps, ROOM, 64, confirm=True).images == 8
    assert steps.tried == [2, 4, 40, 16, 8]  # 20 is rounded to 16


def test_what_fits_but_takes_more_than_it_should_is_lowered_by_as_much() -> None:
    steps = Steps(100, 20, bend=lambda images: 100 * (images > 32))
    found = most_that_fit(steps, ROOM, 64, confirm=True)
    assert (found.images, found.step) == (32, 740)
    assert steps.tried == [2, 4, 40, 32]


def test_the_attempts_end_with_what_was_measured_first() -> None:
    assert most_that_fit(Steps(0, 20, most=4), ROOM, 64, confirm=True).images == 4


@pytest.mark.parametrize("steps", [Steps(0, 20, most=1), Steps(0, 500)], ids=["not enough", "above the limit"])
def test_a_single_image_is_the_last_resort(steps: Steps) -> None:
    assert most_that_fit(steps, ROOM, 64, confirm=True).images == 1
    assert steps.tried == [2, 1]


def test_a_single_image_may_take_all_that_is_free() -> None:
    assert most_that_fit(Steps(0, 950), ROOM, 64, confirm=False).images == 1


@pytest.mark.parametrize("steps", [Steps(0, 20, most=0), Steps(0, 1001)], ids=["not enough", "more than is free"])
def test_an_image_that_does_not_fit_ends_the_run_with_advice(steps: Steps) -> None:
    with pytest.raises(SuiteError, match=r"a step with a single image takes .*GB are free") as caught:
        most_that_fit(steps, ROOM, 64, confirm=True)
    assert "model.checkpointing=true" in str(caught.value.problems[0].hint)


@pytest.mark.parametrize(("images", "fewer"), [(1, 1), (2, 2), (3, 2), (7, 6), (8, 8), (15, 8), (64, 64), (71, 64)])
def test_a_number_is_rounded_to_one_that_can_be_halved(images: int, fewer: int) -> None:
    assert rounded(images) == fewer


# the run


@pytest.fixture
def ten_megabytes_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an image take 10 MB, after the step has really been done; 130 MB are free."""
    measured = Probe.__call__

    def call(self: Probe, images: int) -> int | None:
        assert measured(self, images) is not None
        return 10_000_000 * images

    monkeypatch.setattr(Probe, "__call__", call)
    monkeypatch.setattr(free_memory, "free_memory", lambda: 130_000_000)


def _run(config: Path, folder: Path, *overrides: str, callbacks=()) -> Run:
    checked = load_config(config, [f"output={folder}", *overrides])
    run = Run.create(checked)
    fit(checked, run, callbacks=callbacks)
    return run


@CONFIGS
@pytest.mark.usefixtures("ten_megabytes_an_image")
def test_a_run_with_the_written_config_is_the_same(request, tmp_path, monkeypatch, config_name) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    dropping = ["train.epochs=2", "model.drop_path=0.2", "augment.preset=strong", "augment.plain_epochs=1"]
    run = _run(request.getfixturevalue(config_name), tmp_path / "auto", "train.batch=auto", *dropping)
    assert run.config.train.batch == 6  # half of what is free is 65 MB
    again = _run(run.config_path, tmp_path / "again")
    ends = [torch.load(folder.last_checkpoint) for folder in (run, again)]
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(ends[0][part], ends[1][part], rtol=0, atol=0)
    average = [end["callbacks"]["EvaluationWeights"]["average"] for end in ends]
    torch.testing.assert_close(*average, rtol=0, atol=0)
    assert _files(run) == _files(again)
    assert not list((tmp_path / "here").iterdir())
    lines, expected = (_log(folder) for folder in (run, again))
    (said,) = (line for line in lines if line not in expected)
    assert said == (
        "train.batch: auto chose 6, as more may not fit: an image takes 0.01 GB and a step 0.06 GB, and 0.13 GB are "
        "free; written to config.yaml, for train.batch=6 is the same run"
    )


def _files(run: Run) -> set[str]:
    names = (str(path.relative_to(run.dir)) for path in run.dir.rglob("*") if path.is_file())
    return {name for name in names if not name.startswith("tensorboard")}


def _log(run: Run) -> list[str]:
    lines = (run.dir / "log.txt").read_text().replace(str(run.dir), "RUN").splitlines()
    return [line.split(" ", 3)[-1] for line in lines if "img/s" not in line]


def test_a_run_takes_no_more_than_the_samples_and_the_reference_batch(
    tiny_segmenter_config, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(Probe, "__call__", lambda self, images: images)
    few = _run(tiny_segmenter_config, tmp_path, "train.batch=auto")
    assert few.config.train.batch == 8
    assert "auto chose 8, as an epoch has 12 samples" in (few.dir / "log.txt").read_text()
    many = _run(tiny_segmenter_config, tmp_path, "train.batch=auto", "train.accumulate=2", "data.crops_per_image=3")
    assert (many.config.train.batch, many.config.train.accumulate) == (32, 2)
    assert "as the learning rate is given for 64 images" in (many.dir / "log.txt").read_text()


@pytest.mark.usefixtures("ten_megabytes_an_image")
def test_a_run_that_ended_before_it_had_chosen_chooses_when_it_is_resumed(tiny_config, tmp_path) -> None:
    run = Run.create(load_config(tiny_config, [f"output={tmp_path}", "train.batch=auto"]))
    assert run.config.train.batch == "auto"
    fit(run.config, run, resume=True)
    assert run.config.train.batch == 6
    assert run.summary["status"] == "finished"


@pytest.mark.usefixtures("ten_megabytes_an_image")
def test_a_step_that_does_not_fit_after_all_is_halved(tiny_segmenter_config, tmp_path) -> None:
    run = _run(tiny_segmenter_config, tmp_path, "train.batch=auto", callbacks=(SmallMemory(4, 0),))
    assert run.summary["status"] == "finished"
    assert (run.config.train.batch, run.config.train.accumulate) == (3, 2)


def test_what_takes_memory_is_the_runs_own(tiny_segmenter_config) -> None:
    overrides = ["train.accumulate=5", "train.ema=0.0", "train.freeze=[backbone.*]", "model.checkpointing=true"]
    probe = _probe(tiny_segmenter_config, *overrides, "trainer.precision=bf16-mixed", "trainer.max_time=00:00:01:00")
    trainer = probe._trainer()
    assert (trainer.precision, trainer.gradient_clip_val, trainer.accumulate_grad_batches) == ("bf16-mixed", 10.0, 2)
    assert [callback.decay for callback in trainer.callbacks if isinstance(callback, EvaluationWeights)] == [0.0]
    trained = [name for name, parameter in probe.task.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert not any(name.startswith("backbone.") for name in trained)


def test_a_probe_takes_two_steps_of_the_optimizer_with_gradients_added_up(tiny_segmenter_config, monkeypatch) -> None:
    probe = _probe(tiny_segmenter_config, "train.accumulate=3")
    seen = []
    monkeypatch.setattr(probe.task, "on_train_end", lambda: seen.append(probe.task.trainer.global_step))
    monkeypatch.setattr(probe.task, "on_before_backward", lambda loss: seen.append("batch"))
    with quiet():
        assert probe(2) is not None
    assert seen == ["batch", "batch", "batch", "batch", 2]


def test_another_error_in_a_probe_is_not_taken_for_a_lack_of_memory(
    tiny_segmenter_config, tmp_path, monkeypatch
) -> None:
    def fail(*_) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Probe, "_train", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        _run(tiny_segmenter_config, tmp_path, "train.batch=auto")


def test_a_probe_that_runs_out_of_memory_says_that_it_does_not_fit(tiny_segmenter_config, monkeypatch) -> None:
    probe = _probe(tiny_segmenter_config)

    def fail(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Probe, "_train", fail)
    assert probe(2) is None


def _probe(config: Path, *overrides: str) -> Probe:
    checked = load_config(config, overrides)
    parts = SLICES[checked.task]
    data = parts.data(checked, None)
    return Probe(checked, parts.task(checked, data), data)


def test_the_latest_images_have_their_place(tiny_segmenter_config, monkeypatch) -> None:
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2_000_000)
    probe = _probe(tiny_segmenter_config, "train.recalibrate=10")
    assert probe.room == (2_000_000, 1_000_000 - 10 * 3 * 64 * 64)


# what is tried out


@CONFIGS
def test_the_noise_has_the_form_of_a_batch(request, config_name) -> None:
    config = load_config(request.getfixturevalue(config_name), ["train.batch=4"])
    data = SLICES[config.task].data(config, None)
    batch, real = data.largest_batch(4), next(iter(data.train_dataloader()))
    assert type(batch) is type(real)
    for field in fields(batch):
        made, seen = getattr(batch, field.name), getattr(real, field.name)
        assert (made.dtype, made.ndim, made.shape[0]) == (seen.dtype, seen.ndim, seen.shape[0]), field.name
    assert batch.images.shape == real.images.shape
    assert batch.images.stride() == real.images.stride()
    torch.testing.assert_close(batch.images, data.largest_batch(4).images, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("preset", "pictures"), [("none", 1), ("strong", 6)], ids=["as they are", "mosaic, mixup and copy-paste"]
)
def test_each_image_has_as_many_objects_as_there_can_be(tiny_config, preset, pictures) -> None:
    config = load_config(tiny_config, [f"augment.preset={preset}", "augment.plain_epochs=0"])
    data = SLICES["detection"].data(config, None)
    batch = data.largest_batch(3)
    fullest = max(len(image.objects) for image in data.split("train").images)
    assert batch.labels.shape == (3, fullest * pictures)
    assert (batch.boxes[..., 2:] > batch.boxes[..., :2]).all()
    assert ((batch.boxes >= 0) & (batch.boxes <= torch.tensor([96.0, 64.0, 96.0, 64.0]))).all()
    assert ((batch.labels >= 0) & (batch.labels < 4)).all()


@pytest.mark.parametrize(
    ("policy", "pictures"),
    [(AugmentPolicy(), 1), (AugmentPolicy(mosaic=0.5), 4), (AugmentPolicy(mixup=0.5, copy_paste=0.1), 3)],
)
def test_a_sample_is_made_of_so_many_pictures(policy: AugmentPolicy, pictures: int) -> None:
    assert policy.most_pictures == pictures


def test_noise_of_overlapping_classes_and_many_bands() -> None:
    classes = MaskClasses(("a", "b"), ((0, 0, 0), (1, 1, 1)), multilabel=True)
    batch = noise(3, 5, (32, 48), classes, 4000.0, np.float32)
    assert (batch.images.shape, batch.images.dtype) == ((3, 5, 32, 48), torch.float32)
    assert 3000 < float(batch.images.max()) <= 4000
    assert (batch.masks.shape, batch.masks.dtype) == ((3, 2, 32, 48), torch.uint8)
    assert sorted(set(batch.masks.flatten().tolist())) == [0, 1]


# several processes, other devices


@pytest.mark.parametrize(
    ("override", "key"),
    [("trainer.devices=2", "devices is 2"), ("trainer.devices=[0, 1]", "devices is"), ("trainer.num_nodes=2", "nodes")],
)
def test_several_processes_are_refused_in_the_config(tiny_config, override, key) -> None:
    with pytest.raises(ConfigError, match=rf"train.batch: auto tries out what fits in a single process.*{key}"):
        load_config(tiny_config, ["train.batch=auto", override])
    assert load_config(tiny_config, [override]).train.batch == 4


def test_several_processes_that_the_trainer_makes_are_refused_at_the_start(tiny_config) -> None:
    with pytest.raises(ConfigError, match=r"this run has 2\n.*trainer.devices=1, and write the number"):
        _probe(tiny_config, "train.batch=auto", "trainer.devices='2'")


def test_several_processes_of_a_launcher_are_refused_at_the_start(tiny_config, monkeypatch) -> None:
    started = Launch("torchrun", rank=0, local_rank=0, node=0, processes=4, per_node=4, address="127.0.0.1", port=1)
    monkeypatch.setattr(Launch, "read", lambda: started)
    with pytest.raises(ConfigError, match="this run has 4"):
        _probe(tiny_config, "train.batch=auto")


def test_a_device_whose_memory_is_not_known_is_refused_with_the_remedy(tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"not on mps here\n.*train.batch=8"):
        DeviceMemory(torch.device("mps"))
    monkeypatch.setattr(free_memory, "_PROC", tmp_path)
    with pytest.raises(ConfigError, match="not on cpu here"):
        DeviceMemory(torch.device("cpu"))


# memory


def test_the_peak_of_some_work_is_its_own() -> None:
    memory = DeviceMemory(torch.device("cpu"))
    before = memory.held()

    def take(megabytes: int) -> Tensor:
        return torch.ones(megabytes * 250_000)

    assert memory.peak_of(lambda: (take(200), None)[1]) >= before + 190_000_000
    assert memory.peak_of(lambda: (take(20), None)[1]) < before + 100_000_000


def test_freed_memory_that_is_taken_again_counts() -> None:
    def take() -> list[bytes]:
        return [bytes(50_000) for _ in range(2000)]  # pieces so small are kept when they are freed

    memory = DeviceMemory(torch.device("cpu"))
    first, last = take(), bytes(50_000)
    del first
    before = memory.held()
    assert memory.peak_of(lambda: (take(), None)[1]) >= before + 90_000_000
    assert len(last) == 50_000


def test_a_gpu_is_asked_for_its_own(monkeypatch) -> None:
    done = []
    for name, value in {
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "mem_get_info": (1000, 4000),
        "memory_reserved": 30,
        "max_memory_reserved": 700,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name, value=value: (done.append(name), value)[1])
    memory = DeviceMemory(torch.device("cuda", 0))
    assert memory.is_gpu
    assert (memory.room(), memory.held()) == ((1000, 900), 30)
    done.clear()
    assert memory.peak_of(lambda: done.append("work")) == 700
    assert done == ["empty_cache", "reset_peak_memory_stats", "work", "max_memory_reserved"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Return what makes a machine with 1000 kB of free memory, and other files."""
    monkeypatch.setattr(free_memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(free_memory, "_GROUPS", tmp_path / "groups")

    def make(files: dict[str, str]) -> None:
        for name, text in ({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:  1000 kB\n"} | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return make


@pytest.mark.parametrize(
    ("groups", "free"),
    [
        ({"proc/self/cgroup": "0::/\n"}, 1_024_000),
        ({"proc/self/cgroup": "0::/\n", "groups/memory.max": "max\n", "groups/memory.current": "7\n"}, 1_024_000),
        (
            {
                "proc/self/cgroup": "3:cpu:/\n0::/a/b\n",
                "groups/a/memory.max": "90000\n",
                "groups/a/memory.current": "50000\n",
                "groups/a/memory.stat": "anon 3\ninactive_file 2000\n",
            },
            42_000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/1\n0::/\n",
                "groups/memory/memory.limit_in_bytes": "80000\n",
                "groups/memory/memory.usage_in_bytes": "90000\n",
            },
            0,
        ),
        ({"proc/self/cgroup": "0::/../../elsewhere\n"}, 1_024_000),
    ],
    ids=["no group", "no limit", "the group around it", "version 1", "a group out of sight"],
)
def test_free_is_what_the_group_of_processes_may_still_take(machine, groups, free) -> None:
    machine(groups)
    assert free_memory.free_memory() == free


# other verbs


def test_other_verbs_take_the_usual_number(tiny_config, trained_run, tmp_path) -> None:
    opened = open_dataset(tiny_config, ["train.batch=auto"])
    assert (opened.config.train.batch, opened.data.batch) == ("auto", 8)
    shutil.copytree(trained_run.dir, tmp_path / "copy")
    assert evaluate(tmp_path / "copy", ["train.batch=auto"]) == evaluate(tmp_path / "copy")
