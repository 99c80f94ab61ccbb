import numpy as np
import pytest
import torch
from detection.reference_postprocess import reference_postprocess, slow_decay, slow_postprocess
from effdet.soft_nms import batched_soft_nms
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable, repeatable_in_part
from torchvision.ops import box_iou, nms

from densenet_suite.detection.postprocess import Postprocess, _maxima, separate_classes
from densenet_suite.detection.structures import RawDetections


def scene(seed, count=40, classes=3, extent=60.0):
    """Raw detections whose anchors are the boxes."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, extent, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], 1)
    logits = rng.normal(-1, 2, (1, count, classes))
    anchors = torch.from_numpy(boxes).float()
    return RawDetections(torch.from_numpy(logits).float(), torch.zeros(1, count, 4), anchors)


def pairs(raw, threshold):
    """Return boxes, scores and labels of all pairs of anchor and class above a threshold."""
    scores = raw.class_logits[0].sigmoid()
    anchor, label = (scores > threshold).nonzero(as_tuple=True)
    return raw.anchors[anchor], scores[anchor, label], label


SEEDS = st.integers(0, 2**20)


@repeatable
@given(SEEDS, st.sampled_from([0.3, 0.5, 0.7]))
def test_hard_suppression_is_torchvisions(seed, iou):
    raw = scene(seed)
    logits = raw.class_logits[0]
    anchors, labels = (logits.sigmoid() > 0.05).nonzero(as_tuple=True)
    boxes, logits = raw.anchors[anchors], logits[anchors, labels]  # which differ where their sigmoids do not
    # class by class: batched_nms moves the classes apart, where float32 rounds boxes to the other side of the limit
    of_classes = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    keep = torch.cat([rows[nms(boxes[rows], logits[rows], iou)] for rows in of_classes]).sort().values
    keep = keep[logits[keep].argsort(descending=True, stable=True)][:100]
    (found,) = Postprocess(score_threshold=0.05, iou_threshold=iou)(raw)
    torch.testing.assert_close(found.scores, logits[keep].sigmoid())
    torch.testing.assert_close(found.labels, labels[keep])
    torch.testing.assert_close(found.boxes, boxes[keep], rtol=1e-5, atol=1e-4)


@repeatable
@given(SEEDS, st.integers(1, 30), st.floats(0.001, 0.9), st.sampled_from(["hard", "soft"]))
def test_detections_are_sorted_limited_and_above_the_threshold(seed, most, threshold, nms):
    (found,) = Postprocess(score_threshold=threshold, max_detections=most, nms=nms)(scene(seed))
    assert len(found.scores) <= most
    assert (found.scores.diff() <= 0).all()
    assert (found.scores > threshold).all()


@repeatable
@given(SEEDS, st.sampled_from([0.3, 0.5]))
def test_no_two_boxes_of_a_class_overlap_beyond_the_limit(seed, iou):
    (found,) = Postprocess(iou_threshold=iou)(scene(seed))
    overlap = box_iou(found.boxes, found.boxes).triu(1)
    same = found.labels[:, None] == found.labels
    assert (overlap[same] <= iou + 1e-5).all()


@repeatable_in_part(10)  # effdet's takes a hundred times as long
@given(SEEDS)
def test_gaussian_soft_suppression_is_effdets(seed):
    raw = scene(seed)
    boxes, scores, labels = pairs(raw, 0.001)
    keep, decayed = batched_soft_nms(boxes, scores, labels, method_gaussian=True, sigma=0.5, score_threshold=0.001)
    (found,) = Postprocess(nms="soft", max_detections=1000)(raw)
    torch.testing.assert_close(found.scores, decayed, rtol=1e-4, atol=1e-6)
    for label in labels.unique():  # which leave each other alone; between them scores may tie but for rounding
        theirs = decayed[labels[keep] == label]
        torch.testing.assert_close(found.scores[found.labels == label], theirs, rtol=1e-4, atol=1e-6)


def test_soft_suppression_lowers_an_overlapping_box_by_the_papers_factor():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # half of the first
    raw = RawDetections(torch.tensor([[[2.0], [1.0]]]), torch.zeros(1, 2, 4), anchors)
    (found,) = Postprocess(nms="soft", sigma=0.7)(raw)
    high, low = torch.tensor([2.0, 1.0]).sigmoid()
    torch.testing.assert_close(found.scores, torch.stack([high, low * np.exp(-(0.5**2) / 0.7)]))


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_boxes_of_different_classes_leave_each_other_alone(nms):
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    raw = RawDetections(torch.tensor([[[2.0, 1.0]]]), torch.zeros(1, 1, 4), anchors)
    (found,) = Postprocess(nms=nms)(raw)
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0]).sigmoid())
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_an_image_without_candidates_has_no_detections(nms):
    raw = scene(0)._replace(class_logits=torch.full((1, 40, 3), -50.0))
    (found,) = Postprocess(nms=nms)(raw, torch.tensor([[50.0, 50.0]]))
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_candidates_are_the_best_of_what_passes_the_threshold():
    raw = scene(1)
    (all_of_them,) = Postprocess(score_threshold=0.001, iou_threshold=1.0, max_detections=1000)(raw)
    (best,) = Postprocess(score_threshold=0.001, iou_threshold=1.0, max_detections=1000, max_candidates=7)(raw)
    torch.testing.assert_close(best.scores, all_of_them.scores[:7])


def test_boxes_are_cut_off_at_the_picture_inside_the_canvas():
    (found,) = Postprocess()(scene(2), torch.tensor([[30.0, 45.0]]))
    assert found.boxes.min() >= 0
    assert found.boxes[:, 2].max() <= 45
    assert found.boxes[:, 3].max() <= 30


def test_images_of_a_batch_do_not_see_each_other():
    one, other = scene(3), scene(4)
    both = RawDetections(torch.cat([one.class_logits, other.class_logits]), torch.zeros(2, 40, 4), one.anchors)
    second = Postprocess()(both)[1]
    (alone,) = Postprocess()(other._replace(anchors=one.anchors))
    assert torch.equal(second.scores, alone.scores)


def test_half_precision_logits_are_scored_in_float32():
    raw = scene(5)
    (found,) = Postprocess()(raw._replace(class_logits=raw.class_logits.bfloat16()))
    assert found.scores.dtype == torch.float32


@repeatable
@given(SEEDS, st.sampled_from([1.0, 1e3, 1e6]))
def test_separated_classes_overlap_as_before_within_and_never_between(seed, extent):
    raw = scene(seed, extent=extent)
    labels = torch.arange(40) % 3
    boxes = raw.anchors - extent / 2  # with negative coordinates too
    moved = box_iou(*[separate_classes(boxes, labels)] * 2)
    same = labels[:, None] == labels
    torch.testing.assert_close(moved[same], box_iou(boxes.double(), boxes.double())[same], rtol=0, atol=1e-6)
    assert (moved[~same] == 0).all()


def test_boxes_outside_the_picture_are_dropped():
    anchors = torch.tensor([[0.0, 0, 10, 10], [40, 0, 60, 10], [70, 0, 90, 10]])
    raw = RawDetections(torch.full((1, 3, 1), 2.0), torch.zeros(1, 3, 4), anchors)
    (found,) = Postprocess()(raw, torch.tensor([[20.0, 50.0]]))
    assert sorted(found.boxes.tolist()) == [[0, 0, 10, 10], [40, 0, 50, 10]]


def assert_as_the_reference(options, raw, sizes=None):
    for found, expected in zip(options(raw, sizes), reference_postprocess(options, raw, sizes), strict=True):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


LOGITS = {
    "all different": lambda logits: logits,
    "many equal": lambda logits: logits.round(),
    "two values": lambda logits: logits.sign(),
    "all equal": torch.ones_like,
    "equal once they are scores": lambda logits: logits.round() + 30,
    "in bfloat16": lambda logits: logits.bfloat16(),
    "one class of each anchor": lambda logits: logits.where(logits == logits.amax(2, keepdim=True), -20.0),
    "infinite": lambda logits: logits.where(logits.abs() < 3, logits * torch.inf),
}


@pytest.mark.parametrize("kind", LOGITS)
@repeatable_in_part(len(LOGITS))
@given(
    seed=SEEDS,
    candidates=st.sampled_from([1, 7, 60, 5000]),
    most=st.sampled_from([1, 10, 100]),
    threshold=st.sampled_from([0.0, 0.001, 0.5, 0.9]),
)
def test_shortcuts_find_what_the_reference_finds(kind, seed, candidates, most, threshold):
    raw = scene(seed, count=60, classes=4)
    raw = raw._replace(class_logits=LOGITS[kind](raw.class_logits), box_deltas=torch.randn(1, 60, 4) / 5)
    options = Postprocess(threshold, max_candidates=candidates, max_detections=most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densenet_suite.detection.postprocess._FIRST_SUPPRESSED", 5)
        assert_as_the_reference(options, raw)
        assert_as_the_reference(options, raw, torch.tensor([[50.0, 45.0]]))


@pytest.mark.parametrize("extent", [30.0, 900.0])  # a heap of which little is left, and hardly any overlap
def test_shortcuts_find_what_the_reference_finds_among_thousands(extent):
    raw = scene(6, count=3000, classes=5, extent=extent)
    assert_as_the_reference(Postprocess(), raw)
    assert_as_the_reference(Postprocess(), raw._replace(class_logits=raw.class_logits.round()))


@st.composite
def quarters(draw):
    """Few boxes on quarters of a pixel, whose overlaps float64 has exactly, and few logits, so that both tie.

    Some boxes are equal, some have no area, and all may lie far away.
    """
    places, sides = st.integers(0, 24), st.integers(0, 16)
    drawn = draw(st.lists(st.tuples(places, places, sides, sides), min_size=1, max_size=24))
    corners = torch.tensor(drawn, dtype=torch.float32) / 4
    corners[:, :2] += draw(st.sampled_from([0, -300, 2**16]))
    anchors = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    classes = draw(st.integers(1, 3))
    count = len(drawn) * classes
    values = st.sampled_from([-8.0, -1.0, 0.375, 0.37500003, 2.4, 30.0, 31.0])
    logits = torch.tensor(draw(st.lists(values, min_size=count, max_size=count)))
    return RawDetections(logits.view(1, -1, classes), torch.zeros(1, len(drawn), 4), anchors)


@repeatable
@given(quarters(), st.sampled_from([0.0, 1 / 3, 0.5, 1.0]), st.sampled_from([1, 5, 100]), st.sampled_from([4, 5000]))
def test_suppression_is_that_of_a_slow_loop_with_ties_of_scores_and_of_overlaps(raw, iou, most, candidates):
    options = Postprocess(0.001, iou_threshold=iou, max_detections=most, max_candidates=candidates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densenet_suite.detection.postprocess._FIRST_SUPPRESSED", 5)
        (found,) = options(raw)
    boxes, logits, labels = slow_postprocess(options, raw)
    assert found.boxes.tolist() == boxes
    assert found.labels.tolist() == labels
    # a sigmoid has an error of its own in the last bits
    torch.testing.assert_close(found.scores.double(), torch.tensor(logits).double().sigmoid(), rtol=1e-6, atol=0)


@repeatable
@given(quarters(), st.sampled_from([1, 5, 100]), st.sampled_from([0.3, 0.5, 0.9]))
def test_soft_suppression_is_that_of_a_slow_loop(raw, most, sigma):
    options = Postprocess(0.001, nms="soft", max_detections=most, sigma=sigma)
    (found,) = options(raw)
    torch.testing.assert_close(found.scores.double(), slow_decay(options, raw), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("nms", ["hard", "soft"])
@pytest.mark.parametrize("sizes", [None, torch.tensor([[100.0, 100.0]])])
@pytest.mark.parametrize("wrong", [3e38, -3e38, torch.inf, torch.nan])
def test_a_box_that_is_nowhere_does_not_undo_the_suppression_of_others(nms, sizes, wrong):
    anchors = torch.tensor([[0.0, 0, 32, 32], [0, 0, 32, 31], [50, 50, 90, 90]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2] = wrong
    (found,) = Postprocess(0.2, nms=nms)(RawDetections(torch.tensor([[[2.0], [1.0], [3.0]]]), deltas, anchors), sizes)
    assert torch.isfinite(found.boxes).all()
    assert [0, 0, 32, 32] in found.boxes.tolist()
    assert [0, 0, 32, 31] not in found.boxes.tolist()


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_equal_logits_keep_the_order_of_their_anchors_wherever_they_lie_in_a_vector(nms):
    corners = torch.arange(37.0)[:, None] * 20
    anchors = torch.cat([corners, corners, corners + 10, corners + 10], 1)
    for logit in (-4.625, -2.975, -0.425, 0.375, 2.4):  # of these the sigmoid has two values
        raw = RawDetections(torch.full((1, 37, 1), logit), torch.zeros(1, 37, 4), anchors)
        (found,) = Postprocess(nms=nms)(raw)
        assert torch.equal(found.boxes, anchors)
        assert (found.scores.diff() <= 0).all()


def test_of_equal_scores_the_first_anchor_and_then_the_first_class_comes_first():
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    raw = RawDetections(torch.full((1, 2, 2), 2.0), torch.zeros(1, 2, 4), anchors)
    (found,) = Postprocess(max_candidates=3)(raw)
    assert found.labels.tolist() == [0, 1, 0]
    assert found.boxes[:, 0].tolist() == [0, 0, 20]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_maxima_are_pytorchs(dtype):
    rows = torch.randn(500, 7).to(dtype)
    rows[::2] = -rows[::2].abs()  # a row without positive numbers is compared the other way round
    rows[:4, 0] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    rows[4] = -torch.inf
    assert torch.equal(_maxima(rows), rows.amax(1))
    assert torch.equal(_maxima(rows[:, 1:4]), rows[:, 1:4].amax(1))


@pytest.mark.parametrize(("nan", "left"), [(torch.nan, 117), (-torch.nan, 119)])  # of 3 classes at 40 anchors
@pytest.mark.parametrize("others", [-3.0, 1.0])
def test_logits_that_are_not_numbers_are_not_chosen(nan, left, others):
    """Nor, if their sign bit is 0, the others of the anchor."""
    raw = scene(0)
    raw.class_logits.fill_(others)
    raw.class_logits[0, 5, 1] = nan
    (found,) = Postprocess(score_threshold=0.01, iou_threshold=1.0, max_detections=1000)(raw)
    assert found.scores.isfinite().all()
    assert len(found.scores) == left
