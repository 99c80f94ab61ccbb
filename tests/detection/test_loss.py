"""Terms of the loss; that they are effdet's is held in parity/test_targets_against_effdet.py."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.loss import BOX_WEIGHT, detection_loss, focal_background, focal_foreground
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
