"""Checks of boxes in arrays, held against loops over one pair, one box, one anchor at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detection.reference_matching import reference_matches
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_suite.detection.anchor_coverage import AnchorPlan, anchors_per_object, check_network, object_sides
from densenet_suite.detection.box_table import BoxTable
from densenet_suite.detection.boxes import box_iou
from densenet_suite.detection.checks import _same_class_pairs, check_boxes
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.structures import ClassTable
from densenet_suite.findings import Findings

SQUARE = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
PLAN = AnchorPlan((128, 128), (3, 4, 5, 6, 7), 4.0, SQUARE)


def split(*images, size=(128, 128), name="train", classes=("a", "b", "c"), crowd=False) -> DetectionSet:
    """Return a split of images, each a list of (label, x1, y1, x2, y2)."""
    listed = []
    for number, rows in enumerate(images):
        table = np.array(rows, np.float64).reshape(-1, 5)
        n = len(table)
        objects = Objects(
            table[:, 1:],
            table[:, 0].astype(np.int64),
            np.full(n, crowd),
            np.ones(n),
            tuple(range(n)),
            (None,) * n,
        )
        listed.append(LabelledImage(number, Path(f"{number}.png"), *size, objects))
    findings = Findings(name, stops=False)
    return DetectionSet(name, Path("a.json"), ClassTable.numbered(classes), tuple(listed), findings)


def checks(*splits, advise=True, most=100, plan=PLAN):
    by_name = {entry.name: entry for entry in splits}
    tables = {name: BoxTable.of(entry) for name, entry in by_name.items()}
    check_boxes(by_name, tables)
    summary = check_network(by_name, tables, plan, most, advise=advise)
    return {(name, f.check): f for name, entry in by_name.items() for f in entry.findings}, summary


numbers = st.integers(0, 12)
box = st.builds(lambda k, x, y, w, h: (k, x, y, x + w + 1, y + h + 1), st.integers(0, 1), *[numbers] * 4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(box, max_size=12), min_size=1, max_size=3), st.sampled_from([0.3, 0.6, 0.9]))
def test_doubles_are_those_of_every_pair_of_a_picture_and_class(images, least):
    table = BoxTable.of(split(*images))
    first, second, iou = _same_class_pairs(table, least)
    found = {(int(a), int(b)): overlap for a, b, overlap in zip(first, second, iou, strict=True)}
    boxes = torch.from_numpy(table.boxes)
    overlaps = box_iou(boxes[None], boxes)[0].numpy() if len(boxes) else np.zeros((0, 0))
    expected = {
        (i, j): overlaps[i, j]
        for i in range(len(boxes))
        for j in range(i + 1, len(boxes))
        if (table.image[i], table.labels[i]) == (table.image[j], table.labels[j]) and overlaps[i, j] >= least
    }
    assert found.keys() == expected.keys()
    assert all(found[pair] == pytest.approx(expected[pair]) for pair in found)


def test_objects_have_the_anchors_that_the_matcher_gives_them():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (3, 6, 2))
    images = [
        [
            (i % 3, x, y, x + w, y + h)
            for i, ((x, y), (w, h)) in enumerate(zip(at, rng.uniform(3, 60, (6, 2)), strict=True))
        ]
        for at in corners
    ]
    entry = split(*images, size=(160, 120))
    table = BoxTable.of(entry)
    found = anchors_per_object(table, PLAN, np.arange(18))
    scale = 128 / 160
    for i, rows in enumerate(images):
        boxes = torch.tensor([row[1:] for row in rows], dtype=torch.float64)
        boxes = boxes.clamp(max=torch.tensor([120.0, 160.0, 120.0, 160.0])) * scale
        matches = reference_matches(boxes.float()[None], torch.zeros(1, 6, dtype=torch.int64), PLAN.anchors())[0]
        assert found[6 * i : 6 * i + 6].tolist() == [int((matches == row).sum()) for row in range(6)]


def test_the_anchors_are_those_of_the_network():
    from scenes import TINY, tiny_detector

    detector = tiny_detector()
    with torch.no_grad():
        anchors = detector(torch.zeros(1, 3, 64, 72, dtype=torch.uint8)).anchors
    levels = tuple(range(TINY.min_level, TINY.max_level + 1))
    torch.testing.assert_close(AnchorPlan((64, 72), levels, TINY.anchor_scale, TINY.aspects).anchors(), anchors)


def test_small_objects_are_told_with_what_other_settings_would_leave():
    rows = [(i % 2, 10 * i, 10 * i, 10 * i + 20, 10 * i + 20) for i in range(10)]
    entry = split(*[rows] * 3, [(2, 10, 10, 70, 70)])
    found, summary = checks(entry)
    share = summary["one_anchor_or_none"]
    assert share == pytest.approx(30 / 31)
    assert summary["one_anchor_or_none_per_class"] == {"a": 1, "b": 1, "c": 0}
    finding = found["train", "few-anchors"]
    assert "97 % of the objects are found by one anchor or none at 128x128" in finding.examples[0]
    for keys, plan in PLAN.alternatives().items():
        if f"{keys} leaves" in finding.hint:
            left = (anchors_per_object(BoxTable.of(entry), plan, np.arange(31)) <= 1).mean()
            assert f"{keys} leaves {100 * left:.0f} %" in finding.hint
    assert "data.size=256 leaves" in finding.hint
    assert "model.min_level=2 leaves" in finding.hint


def test_without_advice_nothing_else_is_computed():
    finding = checks(split([(0, 10, 10, 14, 14)] * 1), advise=False)[0]["train", "few-anchors"]
    assert finding.hint == "densenet-suite data check says what other sizes and anchors would do"


@pytest.mark.parametrize(
    ("row", "reason"),
    [((0, 10, 60, 120, 62), "more than three times as long as wide"), ((0, 60, 60, 61.5, 61.5), "smaller than")],
)
def test_where_nothing_helps_the_reason_is_told(row, reason):
    assert reason in checks(split([row] * 1))[0]["train", "few-anchors"].hint


def test_large_objects_have_anchors_enough():
    found, summary = checks(split(*[[(k, 20, 20, 80, 80)] for k in range(3)] * 10))
    assert found == {}
    assert summary["object_sides"] == {"p5": 60.0, "p50": 60.0, "p95": 60.0}


def test_sides_are_those_at_the_size_of_the_network_and_clipped():
    table = BoxTable.of(split([(0, -20, 0, 40, 40)], size=(256, 128)))
    assert object_sides(table, (128, 128)) == pytest.approx([20.0])


def test_swapped_axes_are_an_error_and_sloppy_borders_are_none():
    swapped = [(0, 20 + i, 100 + i, 40 + i, 120 + i) for i in range(6)]  # of a picture of 200x110 (width x height)
    found, _ = checks(split(swapped, size=(110, 200)))
    assert found["train", "boxes-swapped"].severity == "error"
    assert "6 of 6 boxes" in found["train", "boxes-swapped"].examples[0]
    sloppy = [(0, 20 + i, 80, 60 + i, 111.5) for i in range(6)]
    assert ("train", "boxes-swapped") not in checks(split(sloppy, size=(110, 200)))[0]
    both = [*swapped, *[(0, 180 - i, 20, 215 - i, 60) for i in range(6)]]  # these leave to the right, where x belongs
    assert ("train", "boxes-swapped") not in checks(split(both, size=(110, 200)))[0]


def test_crowd_regions_are_no_objects():
    found, summary = checks(split([(0, 10, 10, 60, 60)] * 3, crowd=True), most=2)
    assert summary == {}
    assert found.keys() == {("train", "class-empty")}


def test_balance_is_told_by_class_and_split():
    train = split(*[[(0, 20, 20, 80, 80)]] * 12, [(1, 20, 20, 80, 80)])
    val = split([(2, 20, 20, 80, 80)], name="val")
    found, _ = checks(train, val)
    assert found["train", "class-empty"].examples == [
        "class 'c' has no object in the training split: it cannot be learned"
    ]
    assert found["train", "class-rare"].examples == ["class 'b' has only 1 objects to train on"]
    assert found["val", "class-not-in-train"].examples == ["class 'c' has 1 objects here and none to train on"]


def test_scenes_far_larger_than_the_network_are_noted():
    entry = split(*[[(k, 200, 200, 700, 700)] for k in range(3)] * 10, size=(500, 1000))
    assert "becomes 7.8 times smaller" in checks(entry)[0]["train", "scene-large"].examples[0]
