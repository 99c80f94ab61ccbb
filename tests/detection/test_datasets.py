"""Labelled images in memory, and the part of them that is held out."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects, hold_out
from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings

repeatable = settings(deadline=None, derandomize=True, max_examples=40)
names = st.lists(st.text(st.characters(exclude_characters="/\x00"), min_size=1, max_size=8), unique=True)


def _objects(labels=(), crowd=()):
    n = len(labels)
    return Objects(
        boxes=np.tile(np.array([-5.0, 2, 60, 20]), (n, 1)).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd or [False] * n, bool),
        areas=np.ones(n),
        ids=tuple(range(n)),
        segmentations=(None,) * n,
    )


def _set(names, objects=None):
    images = [LabelledImage(i, Path("images") / name, 30, 40, objects or _objects()) for i, name in enumerate(names)]
    return DetectionSet("train", Path("a.json"), ClassTable(("cat", "dog"), (1, 5)), tuple(images), Findings("a.json"))


def _names(dataset):
    return {image.path.name for image in dataset.images}


def test_boxes_are_clipped_to_the_picture_on_demand():
    objects = _objects([0])
    assert objects.clipped(15, 40).tolist() == [[0, 2, 40, 15]]
    assert objects.boxes.tolist() == [[-5, 2, 60, 20]]
    assert len(objects) == 1


def test_a_subset_has_the_images_named_and_the_same_classes():
    dataset = _set("abcd")
    part = dataset.subset("val", [2, 0])
    assert [image.path.name for image in part.images] == ["c", "a"]
    assert (part.name, part.classes, len(part)) == ("val", dataset.classes, 2)


def test_the_report_counts_what_there_is():
    images = (
        LabelledImage(1, Path("a"), 30, 40, _objects([1, 1, 0], [False, False, True])),
        LabelledImage(2, Path("b"), 30, 40, _objects()),
    )
    findings = Findings("a.json")
    findings.warning("box-clipped", "annotations[0] sticks out")
    dataset = DetectionSet("val", Path("a.json"), ClassTable(("cat", "dog", "cow"), (1, 5, 7)), images, findings)
    assert dataset.report() == {
        "split": "val",
        "annotations": "a.json",
        "images": 2,
        "images_without_objects": 1,
        "objects": 2,
        "crowd_regions": 1,
        "classes": {"cat": 1, "dog": 2, "cow": 0},
        "findings": findings.to_list(),
        "damaged": [],
    }


@repeatable
@given(names.filter(lambda drawn: len(drawn) > 1), st.floats(0, 1))
def test_the_two_parts_are_disjoint_whole_and_never_empty(drawn, share):
    train, val = hold_out(_set(drawn), share)
    assert _names(train) | _names(val) == set(drawn)
    assert not _names(train) & _names(val)
    assert len(train)
    assert len(val)
    assert (train.name, val.name) == ("train", "val")


@repeatable
@given(names.filter(lambda drawn: len(drawn) > 1), st.floats(0.1, 0.9), st.randoms())
def test_which_part_does_not_depend_on_the_order(drawn, share, random):
    shuffled = random.sample(drawn, len(drawn))
    assert _names(hold_out(_set(drawn), share)[1]) == _names(hold_out(_set(shuffled), share)[1])


def test_new_images_do_not_move_the_old_ones_across():
    old = [f"{i:04d}.jpg" for i in range(100)]
    new = [f"new{i}.jpg" for i in range(57)]
    train, val = hold_out(_set(old), 0.2)
    later_train, later_val = hold_out(_set(old + new), 0.2)
    assert _names(train) <= _names(later_train)
    assert _names(val) <= _names(later_val)


def test_a_larger_share_holds_out_what_a_smaller_one_does():
    dataset = _set([f"{i:04d}.jpg" for i in range(100)])
    assert _names(hold_out(dataset, 0.1)[1]) <= _names(hold_out(dataset, 0.3)[1])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_is_met_on_average(share):
    _, val = hold_out(_set([f"{i:04d}.jpg" for i in range(500)]), share)
    assert len(val) / 500 == pytest.approx(share, abs=0.06)


def test_the_order_of_the_file_is_kept():
    train, val = hold_out(_set([f"{i:04d}.jpg" for i in range(50)]), 0.3)
    for part in (train, val):
        assert [image.id for image in part.images] == sorted(image.id for image in part.images)
