"""A step that does not fit into memory: the run goes on with smaller parts of the same step."""

import lightning as L
import pytest
import torch

from densenet_suite.config.load import load_config
from densenet_suite.errors import SuiteError
from densenet_suite.training.fit import fit
from densenet_suite.training.memory import is_out_of_memory, smaller_batch
from densenet_suite.training.run import Run


class SmallMemory(L.Callback):
    """Has no room for batches above some size, in one step of the run; remembers which images were learned from."""

    def __init__(self, most: int, step: int):
        self.most = most
        self.step = step
        self.seen: list[tuple[int, list[int]]] = []

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        if trainer.global_step == self.step and trainer.train_dataloader.batch_size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append((trainer.current_epoch, batch.indices.tolist()))


@pytest.mark.parametrize("step", [0, 2, 4], ids=["first step", "within an epoch", "second epoch"])
def test_the_run_goes_on_with_halves_of_the_same_step(tiny_segmenter_config, tmp_path, step) -> None:
    overrides = [f"output={tmp_path}", "train.epochs=2", "train.batch=4", "train.save_minutes=0"]
    config = load_config(tiny_segmenter_config, overrides)
    run, memory = Run.create(config), SmallMemory(2, step)
    fit(config, run, callbacks=(memory,))
    assert run.summary["status"] == "finished"
    assert run.summary["steps"] == 6
    assert run.summary["faults"] == {"out_of_memory": 1}
    assert (run.config.train.batch, run.config.train.accumulate) == (2, 2)
    assert _images_of_epochs(memory) == {0: list(range(12)), 1: list(range(12))}  # each once, none left out


def _images_of_epochs(memory: SmallMemory) -> dict[int, list[int]]:
    return {epoch: sorted(i for e, images in memory.seen for i in images if e == epoch) for epoch in (0, 1)}


def test_what_cannot_be_halved_ends_the_run_with_advice(tiny_segmenter_config) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    for batch, words in ((1, "single image does not fit(.|\n)*checkpointing"), (3, "odd batch(.|\n)*even train.batch")):
        config = load_config(tiny_segmenter_config, [f"train.batch={batch}"])
        with pytest.raises(SuiteError, match=words):
            smaller_batch(config, error)


def test_another_error_is_left_as_it_is(tiny_segmenter_config) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1") as raised:
        smaller_batch(load_config(tiny_segmenter_config), error)
    assert raised.value is error


def test_memory_of_the_machine_counts_too() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**48, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
