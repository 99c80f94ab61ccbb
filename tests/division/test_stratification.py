import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.division.stratification import join, stratify
from densenet_suite.errors import DataError

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


@st.composite
def grouped_images(draw):
    """Groups of one to five images, each with some of five classes, from everywhere to nearly nowhere."""
    seed, count = draw(st.integers(0, 2**32)), draw(st.integers(40, 120))
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.integers(1, 6, count))
    odds = rng.uniform(0.02, 0.9, 5)
    return groups.tolist(), rng.random((len(groups), 5)) < odds


@settings(max_examples=60, deadline=None, derandomize=True)
@given(grouped_images(), st.integers(0, 5))
def test_groups_stay_whole_and_shares_are_met(images, seed):
    groups, classes = images
    splits = np.array(stratify(groups, classes, SHARES, seed))

    for group in set(groups):
        assert len(set(splits[np.array(groups) == group])) == 1
    largest = np.bincount(groups).max()
    for name, share in SHARES.items():
        mine = splits == name
        assert abs(mine.sum() - share * len(groups)) <= 0.05 * len(groups) + largest
        wanted = share * classes.sum(0)
        assert (abs(classes[mine].sum(0) - wanted) <= 0.05 * classes.sum(0) + largest).all()


def deviation(splits, classes):
    """How far the classes' images in each split are from their share of the whole, on average."""
    splits = np.array(splits)
    present = classes[:, classes.any(0)]
    return np.mean(
        [abs(present[splits == name].sum(0) / present.sum(0) - share).mean() for name, share in SHARES.items()]
    )


def test_classes_are_spread_better_than_by_chance():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 6, 60)).tolist()
    classes = rng.random((len(groups), 6)) < [0.5, 0.2, 0.1, 0.05, 0.04, 0.03]
    chance = []
    for seed in range(20):
        drawn = np.random.default_rng(seed).choice(list(SHARES), 60, p=list(SHARES.values()))
        chance.append(deviation([drawn[group] for group in groups], classes))

    assert deviation(stratify(groups, classes, SHARES, 0), classes) < 0.6 * min(chance)


def test_the_seed_decides_between_equals_and_nothing_else_does():
    groups, classes = list(range(50)), np.ones((50, 1), bool)

    assert stratify(groups, classes, SHARES, 3) == stratify(groups, classes, SHARES, 3)
    assert len({tuple(stratify(groups, classes, SHARES, seed)) for seed in range(5)}) == 5


def test_images_without_a_class_are_shared_out_too():
    splits = stratify(list(range(100)), np.zeros((100, 3), bool), SHARES, 0)
    assert {name: splits.count(name) for name in SHARES} == {"train": 70, "val": 20, "test": 10}
    assert stratify([0, 1], np.zeros((2, 0), bool), {"train": 0.5, "val": 0.5}, 0) in (
        ["train", "val"],
        ["val", "train"],
    )


def test_no_split_is_left_empty_where_there_are_groups_enough():
    for count in (3, 4, 6):
        splits = stratify(list(range(count)), np.ones((count, 2), bool), SHARES, 0)
        assert set(splits) == set(SHARES)
    with pytest.raises(DataError, match=r"2 groups of images cannot be divided into train, val, test\n  hint: a finer"):
        stratify([0, 1, 1], np.ones((3, 1), bool), SHARES, 0)


def test_groups_that_share_an_image_are_one():
    assert join(["a", "b", "c", "a", "d"], [[0, 1], [1, 4]]) == [0, 0, 1, 0, 0]
    assert join(["a", "b", "a"], []) == [0, 1, 0]
