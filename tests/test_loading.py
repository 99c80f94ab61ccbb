"""Samples by way of worker processes: errors, damaged pictures, and workers that hang or are killed."""

import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from densenet_suite.damaged import DamagedImages
from densenet_suite.errors import DataError, SuiteError
from densenet_suite.image_opening import DamagedImageError
from densenet_suite.loading import READING, Loader, SampleError, Samples, plain_worker_errors
from densenet_suite.sampling import EpochSampler, SampleKey, SequentialShard


class Numbers(Samples[tuple[int, int]]):
    """Samples that are their epoch and picture; of some pictures making one goes wrong."""

    def __init__(self, count=100, faults=None, *, trains=True, skip=False):
        paths = [Path(f"{i}.jpg") for i in range(count)]
        super().__init__(paths, 7, trains=trains, damaged=DamagedImages("train", paths) if skip else None)
        self.faults = faults or {}

    def __len__(self):
        return len(self.paths)

    def image_of(self, index):
        return index

    def make(self, key):
        self.at_work(READING, key.index)
        fault = self.faults.get(key.index)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            fault()
        return key.epoch, key.index

    def make_empty(self, key):
        return key.epoch, -key.index


def _damaged(*numbers):
    return {i: DamagedImageError("image file is damaged: cut", where=f"{i}.jpg", hint="copy it") for i in numbers}


def _epoch(samples, workers=0, epoch=0, batch=4, **options):
    sampler = EpochSampler(len(samples), 3) if samples.trains else SequentialShard(len(samples))
    loader = Loader(samples, list, workers, sampler=sampler, batch=batch, **options)
    if samples.trains:
        sampler.set_epoch(epoch)
    return [sample for batch in loader for sample in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_data_arrives_as_it_was_raised_with_sample_and_stage(workers):
    with pytest.raises(DamagedImageError) as caught:
        _epoch(Numbers(10, _damaged(5), trains=False), workers)
    assert caught.value.exit_code == 3
    (problem,) = caught.value.problems
    assert problem.what == "image file is damaged: cut"
    assert problem.where == "5.jpg; sample 5 of epoch 0, reading the picture"
    assert problem.hint == "copy it"
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_the_program_names_sample_file_and_stage(workers):
    with pytest.raises(SampleError) as caught:
        _epoch(Numbers(10, {6: KeyError("x")}, trains=False), workers)
    assert str(caught.value) == "KeyError: 'x'  (6.jpg; sample 6 of epoch 0, reading the picture)"
    if workers:
        assert "in make" in caught.value.__notes__[0]  # the traceback of the worker


def test_a_worker_that_hangs_is_told_by_the_files_it_was_to_read():
    samples = Numbers(8, {5: lambda: time.sleep(4)}, trains=False)
    with pytest.raises(SuiteError) as caught:
        _epoch(samples, 1, batch=2, timeout=1)
    (problem,) = caught.value.problems
    assert problem.what == "no batch came for 1 seconds: a process that reads pictures hangs"
    assert problem.where == "4.jpg, 5.jpg"
    assert problem.hint == "these were to be read next: is the drive they are on still there?"


def test_a_worker_that_is_killed_is_told_plainly():
    samples = Numbers(12, {9: lambda: os.kill(os.getpid(), signal.SIGKILL)}, trains=False)
    with (
        pytest.raises(SuiteError, match=r"^a process that reads pictures ended: it (is killed|exited)") as caught,
        plain_worker_errors(),
    ):
        _epoch(samples, 1, batch=6)
    (problem,) = caught.value.problems
    assert problem.hint.startswith("mostly the memory is too little")


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match=r"^something else$"), plain_worker_errors():
        raise RuntimeError("something else")


def test_the_place_of_a_damaged_picture_is_taken_by_another_one():
    plain, skipping = Numbers(), Numbers(faults=_damaged(8), skip=True)
    before, after = _epoch(plain), _epoch(skipping)
    (changed,) = [i for i in range(100) if before[i] != after[i]]
    assert before[changed] == (0, 8)
    assert after[changed][1] not in (8, -8)
    assert skipping.damaged.found == [Path("8.jpg")]


def test_which_one_that_is_depends_on_seed_epoch_and_number_alone():
    def taken(epoch, faults):
        return Numbers(faults=faults, skip=True)[SampleKey(epoch, 8)]

    assert taken(0, _damaged(8)) == taken(0, _damaged(8))
    assert len({taken(epoch, _damaged(8))[1] for epoch in range(20)}) > 10
    first = taken(0, _damaged(8))[1]
    further = Numbers(300, _damaged(8), skip=True)
    first = further[SampleKey(0, 8)][1]
    assert Numbers(300, _damaged(8, first), skip=True)[SampleKey(0, 8)][1] not in (8, first)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_of_it_and_their_finds_are_known_here(workers):
    samples = Numbers(300, _damaged(8, 70, 200), skip=True)
    assert _epoch(samples, workers, epoch=2) == _epoch(Numbers(300, _damaged(8, 70, 200), skip=True), epoch=2)
    assert samples.damaged.found == [Path("8.jpg"), Path("70.jpg"), Path("200.jpg")]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_damaged_pictures_stop_the_run(workers):
    with pytest.raises(DataError) as caught:
        _epoch(Numbers(200, _damaged(3, 9, 70), skip=True), workers)
    (problem,) = caught.value.problems
    expected = "3 of 200 pictures cannot be decoded, more than the 1% that data.damaged=skip leaves out"
    assert problem.what.startswith(expected)
    assert problem.hint == "copy the files again, or take them out of the dataset"


def test_a_split_without_a_sound_picture_is_an_error():
    with pytest.raises(DataError, match=r"no picture of the split can be decoded"):
        Numbers(1, _damaged(0), skip=True)[SampleKey(0, 0)]


def test_in_evaluation_a_damaged_picture_is_empty_and_stays():
    samples = Numbers(5, _damaged(3), trains=False, skip=True)
    assert _epoch(samples) == [(0, 0), (0, 1), (0, 2), (0, -3), (0, 4)]
    assert samples.damaged.found == [Path("3.jpg")]


def test_an_epoch_that_goes_on_in_its_middle_replaces_alike():
    whole = _epoch(Numbers(faults=_damaged(8), skip=True))
    samples, sampler = Numbers(faults=_damaged(8), skip=True), EpochSampler(100, 3)
    sampler.skip(0, 40)
    rest = [sample for batch in Loader(samples, list, 0, sampler=sampler, batch=4) for sample in batch]
    assert rest == whole[40:]


def test_errors_pass_between_processes_whole():
    error = DataError("a", where="b", hint="c").at("d")
    error.add_note("n")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.problems, str(again)) == (DataError, error.problems, str(error))
    assert again.__notes__ == ["n"]
