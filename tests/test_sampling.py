import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from densenet_suite.sampling import (
    EpochSampler,
    SampleKey,
    SequentialShard,
    ShardSampler,
    Stream,
    derive_seed,
    epoch_order,
)


def _order(size, seed, epoch, rank=0, processes=1):
    sampler = EpochSampler(size, seed, rank, processes)
    sampler.set_epoch(epoch)
    return [key.index for key in sampler]


def test_the_order_is_a_function_of_seed_and_epoch():
    assert _order(50, 3, 7) == _order(50, 3, 7)
    assert _order(50, 3, 7) != _order(50, 3, 8)
    assert _order(50, 3, 7) != _order(50, 4, 7)


def test_every_epoch_of_every_seed_is_shuffled_anew():
    orders = {tuple(_order(30, seed, epoch)) for seed in range(3) for epoch in range(20)}
    assert len(orders) == 60
    assert tuple(range(30)) not in orders


def test_an_order_does_not_depend_on_the_epochs_before():
    sampler = EpochSampler(50, 3)
    for epoch in (0, 1, 7):
        sampler.set_epoch(epoch)
        order = [key.index for key in sampler]
    assert order == _order(50, 3, 7)


def test_iterating_twice_gives_the_same():
    sampler = EpochSampler(50, 3)
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize(("rank", "processes"), [(0, 1), (1, 2)])
def test_what_was_drawn_before_a_run_was_stopped_is_left_out_of_that_epoch_only(rank, processes):
    sampler = EpochSampler(50, 3, rank, processes)
    sampler.skip(7, 12)
    for epoch, drawn in ((7, 12), (8, 0), (6, 0)):
        sampler.set_epoch(epoch)
        assert [key.index for key in sampler] == _order(50, 3, epoch, rank, processes)[drawn:]
    assert len(sampler) == 50 // processes


def test_a_key_carries_its_epoch():
    sampler = EpochSampler(5, 0)
    sampler.set_epoch(9)
    assert {key.epoch for key in sampler} == {9}


def test_one_process_draws_every_sample_once():
    assert sorted(_order(37, 0, 0)) == list(range(37))


def test_two_processes_draw_together_what_one_draws():
    first, second = _order(36, 5, 2, 0, 2), _order(36, 5, 2, 1, 2)
    assert not set(first) & set(second)
    assert set(first + second) == set(_order(36, 5, 2))


@repeatable
@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 10))
def test_processes_draw_equally_many_and_none_twice(size, processes, epoch):
    if size < processes:
        return
    parts = [_order(size, 1, epoch, rank, processes) for rank in range(processes)]
    assert {len(part) for part in parts} == {size // processes}
    drawn = [index for part in parts for index in part]
    assert len(set(drawn)) == len(drawn) == processes * len(EpochSampler(size, 1, 0, processes))


def test_what_does_not_divide_is_left_out_of_one_epoch_and_not_of_all():
    left_out = {
        (set(range(5)) - set(_order(5, 0, epoch, 0, 2) + _order(5, 0, epoch, 1, 2))).pop() for epoch in range(40)
    }
    assert left_out == set(range(5))


def test_fewer_samples_than_processes_are_refused():
    with pytest.raises(ValueError, match="2 samples cannot be divided among 3 processes"):
        EpochSampler(2, 0, 0, 3)


@repeatable
@given(st.integers(0, 60), st.integers(1, 8))
def test_evaluation_counts_each_sample_once_whatever_the_processes(size, processes):
    shards = [SequentialShard(size, rank, processes) for rank in range(processes)]
    drawn = [key for shard in shards for key in shard]
    assert sorted(key.index for key in drawn) == list(range(size))
    assert sum(len(shard) for shard in shards) == size


def test_evaluation_goes_in_order():
    assert list(SequentialShard(4)) == [SampleKey(0, i) for i in range(4)]


@repeatable
@given(st.integers(), st.sampled_from(Stream), st.lists(st.integers(), max_size=4))
def test_a_seed_is_one_that_numpy_and_torch_take(seed, stream, position):
    assert 0 <= derive_seed(seed, stream, *position) < 2**63


def test_a_seed_depends_on_every_argument():
    positions = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (11,), (1, 1)]
    seeds = [derive_seed(seed, stream, *p) for seed in (0, 1, 10) for stream in Stream for p in positions]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_is_the_same_for_numpy_integers():
    assert derive_seed(np.int64(3), Stream.SAMPLE, np.int32(1)) == derive_seed(3, Stream.SAMPLE, 1)


# datasets in shards

shard_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def _shards(sizes):
    ends = np.cumsum([0, *sizes])
    return [list(range(start, end)) for start, end in itertools.pairwise(ends)]


def _shard_order(shards, epoch=0, rank=0, processes=1, seed=0, window=2):
    sampler = ShardSampler(shards, seed, rank, processes, window=window)
    sampler.set_epoch(epoch)
    return [key.index for key in sampler]


@given(sizes=shard_sizes, processes=st.integers(1, 8), epoch=st.integers(0, 5))
@repeatable
def test_processes_share_shards_without_overlap_in_equal_parts(sizes, processes, epoch):
    shards = _shards(sizes)
    size = sum(sizes)
    if size < processes:
        return
    parts = [_shard_order(shards, epoch, rank, processes) for rank in range(processes)]
    drawn = [index for part in parts for index in part]
    assert {len(part) for part in parts} == {size // processes}
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(size))
    # a shard is read by one process, but for those at the cuts between processes
    readers = [{rank for rank, part in enumerate(parts) if set(part) & set(shard)} for shard in shards]
    assert sum(len(ranks) - 1 for ranks in readers if ranks) <= processes - 1
    assert parts == [_shard_order(shards, epoch, rank, processes) for rank in range(processes)]


@given(sizes=shard_sizes, window=st.integers(1, 4))
@repeatable
def test_no_more_shards_than_the_window_are_read_at_a_time(sizes, window):
    shards = _shards(sizes)
    shard_of = {index: number for number, shard in enumerate(shards) for index in shard}
    order = [shard_of[index] for index in _shard_order(shards, window=window)]
    runs = []  # the shards of each window, in the order in which they begin
    for number in dict.fromkeys(order):
        first, last = order.index(number), len(order) - 1 - order[::-1].index(number)
        runs.append((first, last))
    for position in range(len(order)):
        assert sum(first <= position <= last for first, last in runs) <= window


def test_samples_of_a_window_are_mixed_and_epochs_differ():
    shards = _shards([50] * 4)
    first = _shard_order(shards, 0, window=2)
    assert {index // 50 for index in first[:20]} != {first[0] // 50}
    assert first != _shard_order(shards, 1, window=2)
    assert first != _shard_order(shards, 0, seed=1, window=2)
    assert len({tuple(i // 50 for i in _shard_order(shards, epoch, window=1)[::50]) for epoch in range(20)}) > 5


def test_ranks_are_mixed_differently():
    shards = _shards([40, 40])
    one, other = (_shard_order(shards, 0, rank, 2) for rank in range(2))
    assert [index % 40 for index in one] != [index % 40 for index in other]


def test_a_run_in_shards_goes_on_where_it_was_stopped():
    shards = _shards([7, 5, 9])
    sampler = ShardSampler(shards, 0, 1, 2)
    sampler.skip(3, 4)
    sampler.set_epoch(3)
    whole = ShardSampler(shards, 0, 1, 2)
    whole.set_epoch(3)
    assert list(sampler) == list(whole)[4:]


def test_the_order_suits_where_the_samples_lie():
    assert isinstance(epoch_order(None, 6, 0, 0, 1), EpochSampler)
    assert isinstance(epoch_order([[0, 1], [2]], 3, 0, 0, 1), ShardSampler)
