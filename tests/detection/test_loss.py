"""The loss is that of reference_loss.py; that it is effdet's is held in parity/test_targets_against_effdet.py."""

import pytest
import torch
from detection.reference_loss import focal_background, focal_foreground, reference_loss
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from torchvision.ops import sigmoid_focal_loss

from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.loss import BOX_WEIGHT, detection_loss
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.structures import IGNORE, RawDetections
from densenet_suite.detection.variants import DETECTORS

ANCHORS = anchor_boxes((64, 64), [(8, 8), (4, 4), (2, 2)], 4.0, DETECTORS["efficientdet_d0"].aspects)


def raw(value=None, classes=3, dtype=torch.float32):
    shape = (2, len(ANCHORS), classes)
    logits = torch.randn(shape) if value is None else torch.full(shape, value)
    deltas = torch.randn(2, len(ANCHORS), 4) if value is None else torch.full((2, len(ANCHORS), 4), value)
    return RawDetections(logits.to(dtype).requires_grad_(), deltas.to(dtype).requires_grad_(), ANCHORS)


BOXES = torch.tensor([[[8.0, 8, 40, 40], [30, 20, 60, 60]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
LABELS = torch.tensor([[0, 2], [IGNORE, IGNORE]])


def gradients(loss, output):
    return torch.autograd.grad(loss.total, (output.class_logits, output.box_deltas))


def assert_as_the_reference(output, boxes, labels, rtol=1e-5):
    ours, expected = detection_loss(output, boxes, labels), reference_loss(output, boxes, labels)
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=1e-8)
    for gradient, wanted in zip(gradients(ours, output), gradients(expected, output), strict=True):
        assert gradient.dtype == wanted.dtype
        close = 2 * torch.finfo(wanted.dtype).eps * wanted.abs() + 1e-6 * wanted.abs().max()
        assert ((gradient - wanted).abs() <= close).all()


@pytest.mark.parametrize(("function", "target"), [(focal_background, 0.0), (focal_foreground, 1.0)])
def test_focal_terms_are_torchvisions(function, target):
    logits = torch.linspace(-12, 12, 200)
    expected = sigmoid_focal_loss(logits, torch.full_like(logits, target), alpha=0.25, gamma=1.5)
    torch.testing.assert_close(function(logits), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [1000.0, -1000.0, 30000.0, -30000.0])
def test_extreme_outputs_have_a_finite_loss_and_finite_gradients(value, dtype):
    output = raw(value, dtype=dtype)
    loss = detection_loss(output, BOXES, LABELS)
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert torch.isfinite(loss.total)
    assert torch.isfinite(output.class_logits.grad).all()
    assert torch.isfinite(output.box_deltas.grad).all()


def test_the_total_weighs_boxes_by_fifty():
    loss = detection_loss(raw(), BOXES, LABELS)
    torch.testing.assert_close(loss.total, loss.classification + BOX_WEIGHT * loss.box)
    assert BOX_WEIGHT == 50


def test_positives_are_counted():
    matched = (match_anchors(BOXES, LABELS, ANCHORS) != IGNORE).sum()
    assert detection_loss(raw(), BOXES, LABELS).positives == matched > 0


@pytest.mark.parametrize("rows", [0, 3])
def test_a_batch_without_objects_trains_the_background_only(rows):
    output = raw()
    loss = detection_loss(output, torch.zeros(2, rows, 4), torch.full((2, rows), IGNORE))
    loss.total.backward()
    expected = sigmoid_focal_loss(output.class_logits, torch.zeros_like(output.class_logits), 0.25, 1.5).sum()
    torch.testing.assert_close(loss.total, expected, rtol=1e-4, atol=0)
    assert output.class_logits.grad.abs().sum() > 0
    assert (output.box_deltas.grad == 0).all()


def test_rows_that_hold_no_object_change_nothing():
    output = raw()
    more = torch.cat([BOXES, torch.rand(2, 5, 4) * 60], 1), torch.cat([LABELS, torch.full((2, 5), IGNORE)], 1)
    torch.testing.assert_close(detection_loss(output, *more), detection_loss(output, BOXES, LABELS))


def test_the_order_of_the_images_does_not_matter():
    output = raw()
    turned = RawDetections(output.class_logits.flip(0), output.box_deltas.flip(0), ANCHORS)
    torch.testing.assert_close(
        detection_loss(turned, BOXES.flip(0), LABELS.flip(0)), detection_loss(output, BOXES, LABELS)
    )


@repeatable
@given(st.integers(0, 2**20), st.sampled_from([0.1, 1.0, 20.0, 300.0]), st.integers(1, 5), st.integers(0, 6))
def test_any_outputs_have_the_loss_and_the_gradients_of_the_reference(seed, spread, classes, objects):
    torch.manual_seed(seed)
    corners = torch.rand(2, objects, 2) * 50
    boxes = torch.cat([corners, corners + torch.rand(2, objects, 2) * 40 + 1], 2)
    labels = torch.randint(IGNORE, classes, (2, objects))  # with rows that hold no object
    logits, deltas = torch.randn(2, len(ANCHORS), classes) * spread, torch.randn(2, len(ANCHORS), 4) * spread
    output = RawDetections(logits.requires_grad_(), deltas.requires_grad_(), ANCHORS)
    assert_as_the_reference(output, boxes, labels)


@repeatable
@given(
    seed=st.integers(0, 2**20),
    spread=st.sampled_from([0.0, 0.1, 1.0, 20.0, 300.0, 1e4]),
    bias=st.sampled_from([-4.6, 0.0, 30.0]),
    classes=st.integers(1, 5),
    objects=st.integers(0, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_losses_are_those_of_float64(seed, spread, bias, classes, objects, dtype):
    torch.manual_seed(seed)
    corners = torch.rand(2, objects, 2) * 50
    sizes = torch.rand(2, objects, 2) * 40 * torch.randint(0, 2, (2, objects, 1))  # some without an area
    boxes, labels = torch.cat([corners, corners + sizes], 2), torch.randint(IGNORE, classes, (2, objects))
    logits = (torch.randn(2, len(ANCHORS), classes) * spread + bias).to(dtype)
    output = RawDetections(logits, (torch.randn(2, len(ANCHORS), 4) * spread).to(dtype), ANCHORS)
    double = RawDetections(*(values.double() for values in output))
    found, expected = detection_loss(output, boxes, labels), reference_loss(double, boxes.double(), labels)
    assert found.positives == expected.positives
    # float32 has 24 bits of each term and of each sum of a piece; only the sigmoid's tail, below 1e-30, is lost
    torch.testing.assert_close(found.classification.double(), expected.classification, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.box.double(), expected.box, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("certainty", [5.0, 10.0, 20.0])
def test_a_network_that_is_certain_and_right_has_the_small_loss_of_float64(certainty):
    matches = match_anchors(BOXES, LABELS, ANCHORS)
    wanted = LABELS.gather(1, matches.clamp(min=0)).where(matches != IGNORE, IGNORE)
    logits = torch.where(wanted[..., None] == torch.arange(3), certainty, -certainty)
    output = RawDetections(logits, torch.zeros(2, len(ANCHORS), 4), ANCHORS)
    expected = reference_loss(output._replace(class_logits=logits.double()), BOXES, LABELS).classification
    found = detection_loss(output, BOXES, LABELS).classification
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_too(dtype):
    assert_as_the_reference(raw(dtype=dtype), BOXES, LABELS)


def test_pieces_of_a_large_output_make_the_whole(monkeypatch):
    monkeypatch.setattr("densenet_suite.detection.loss._LOGITS_PER_THREAD", 101)  # of 4536 logits
    assert_as_the_reference(raw(), BOXES, LABELS)


def test_outputs_may_lie_in_memory_in_any_order():
    output = raw()
    logits = output.class_logits.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert_as_the_reference(output._replace(class_logits=logits), BOXES, LABELS)


def test_autocast_changes_nothing():
    output = raw()
    with torch.autocast("cpu", torch.bfloat16):
        loss = detection_loss(output, BOXES, LABELS)
    expected = detection_loss(output, BOXES, LABELS)
    assert loss == expected
    for gradient, wanted in zip(gradients(loss, output), gradients(expected, output), strict=True):
        assert torch.equal(gradient, wanted)


def test_gradients_can_be_asked_for_again_and_are_scaled_by_what_follows():
    output = raw()
    loss = detection_loss(output, BOXES, LABELS)
    (first,) = torch.autograd.grad(loss.total, output.class_logits, retain_graph=True)
    (again,) = torch.autograd.grad(loss.total, output.class_logits, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss.total * 1024, output.class_logits)
    assert torch.equal(first, again)
    assert torch.equal(first * 1024, scaled)


def test_slopes_too_small_for_float16_survive_a_scaled_loss():
    output = raw(-9.0, dtype=torch.float16)  # 1e-8 each, below the smallest float16
    loss = detection_loss(output, BOXES, LABELS).total * 2**16
    (gradient,) = torch.autograd.grad(loss, output.class_logits)
    assert (gradient[1] > 0).all()


def test_without_gradients_there_are_none():
    output = raw()
    with torch.no_grad():
        loss = detection_loss(output._replace(class_logits=output.class_logits.detach()), BOXES, LABELS)
    assert not loss.total.requires_grad
    assert loss.total == detection_loss(output, BOXES, LABELS).total


def test_where_positives_cannot_be_counted_all_anchors_are_looked_at(monkeypatch):
    monkeypatch.setattr("densenet_suite.detection.loss._worth_a_look", lambda positive: torch.arange(len(positive)))
    assert_as_the_reference(raw(), BOXES, LABELS)
    assert_as_the_reference(raw(), torch.zeros(2, 3, 4), torch.full((2, 3), IGNORE))


@pytest.mark.parametrize("rows", [0, 2, 20])
def test_elsewhere_than_on_the_cpu_nothing_waits_for_the_device(rows):
    output = raw()
    logits, deltas = (x.detach().to("meta").requires_grad_() for x in output[:2])  # raises if a value is asked for
    elsewhere = RawDetections(logits, deltas, ANCHORS.to("meta"))
    boxes, labels = torch.zeros(2, rows, 4, device="meta"), torch.zeros(2, rows, dtype=torch.int64, device="meta")
    loss = detection_loss(elsewhere, boxes, labels)
    assert [gradient.shape for gradient in gradients(loss, elsewhere)] == [logits.shape, deltas.shape]
