"""What is wrong in the losses and metrics of smp 0.6 is not wrong here: each test is named after one such defect.

Numbers are those of the list in the notes; 9 and 10 concern models.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densenet_suite.segmentation.loss import segmentation_loss
from densenet_suite.segmentation.loss_terms import LOSS_NAMES, LossTerm
from densenet_suite.segmentation.metric import SegmentationMetric
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

REGIONS = ["dice", "tversky", "lovasz"]
BINARY = MaskClasses(("no", "yes"), ((0, 0, 0), (255, 255, 255)))
THREE = MaskClasses(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def value(name, logits, masks, **numbers):
    return segmentation_loss(logits, masks, [LossTerm(name, **numbers)]).total


def scores(classes, found, truth):
    metric = SegmentationMetric(classes)
    metric.update(0, found, truth)
    return metric.compute()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_1_every_loss_works_with_its_own_defaults(name):
    assert torch.isfinite(value(name, torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)))


def test_2_the_mean_is_over_valid_pixels_only():
    logits, masks = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    masks[:, :4] = IGNORE
    expected = F.cross_entropy(logits, masks.long(), ignore_index=IGNORE)
    torch.testing.assert_close(value("cross_entropy", logits, masks), expected)
    masks = masks[:, None].clamp(max=1).masked_fill(masks[:, None] == IGNORE, IGNORE)
    expected = F.binary_cross_entropy_with_logits(logits[:, :1, 4:], masks[:, :, 4:].float())
    torch.testing.assert_close(value("cross_entropy", logits[:, :1], masks), expected)


@pytest.mark.parametrize("name", REGIONS)
def test_3_false_positives_in_a_batch_without_positives_cost(name):
    empty = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    everything, nothing = torch.full((2, 1, 16, 16), 10.0), torch.full((2, 1, 16, 16), -10.0)
    assert value(name, everything, empty) > 0.9
    assert value(name, nothing, empty) < 0.03


def test_4_dice_in_half_precision_is_a_number():
    masks = torch.randint(0, 2, (1, 512, 512), dtype=torch.uint8)
    logits = torch.randn(1, 2, 512, 512)
    torch.testing.assert_close(value("dice", logits.half(), masks), value("dice", logits, masks), rtol=1e-3, atol=0)


def test_4_a_mask_of_0_and_255_says_that_255_is_not_known():
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    masks[..., :4] = 255
    logits = torch.randn(1, 1, 8, 8)
    expected = value("focal", logits[..., 4:], masks[..., 4:])
    torch.testing.assert_close(value("focal", logits, masks), expected)
    assert expected > 0


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_4_losses_take_logits(name):
    assert torch.isfinite(value(name, torch.randn(1, 1, 8, 8) * 50, torch.ones(1, 1, 8, 8, dtype=torch.uint8)))


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_5_overlapping_classes_may_have_ignored_pixels(name):
    masks = torch.randint(0, 2, (2, 3, 8, 8), dtype=torch.uint8).masked_fill(torch.rand(2, 3, 8, 8) < 0.5, IGNORE)
    assert torch.isfinite(value(name, torch.randn(2, 3, 8, 8), masks))


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_5_a_batch_of_ignored_pixels_has_a_loss_of_zero(name):
    loss = value(name, torch.randn(2, 3, 8, 8), torch.full((2, 8, 8), IGNORE, dtype=torch.uint8))
    assert loss.shape == ()
    assert loss == 0


def test_6_focal_of_exclusive_classes_is_of_the_softmax_that_is_read():
    logits, masks = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(value("focal", logits + 5, masks), value("focal", logits, masks), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_6_the_targets_that_are_promised_are_taken(name):
    logits = torch.randn(2, 3, 8, 8)
    for shape in [(2, 8, 8), (2, 3, 8, 8)]:
        assert torch.isfinite(value(name, logits, torch.ones(shape, dtype=torch.uint8)))


def test_7_labels_that_are_no_class_do_not_vanish():
    truth = torch.tensor([[0, 7]], dtype=torch.uint8)
    with pytest.raises(ValueError, match="a true mask holds 7: its values are 0 to 1"):
        scores(BINARY, torch.zeros_like(truth), truth)


@pytest.mark.parametrize("multilabel", [False, True])
def test_7_ignored_pixels_are_not_counted_in_binary_masks(multilabel):
    truth = torch.tensor([[0, 1, 255, 255]], dtype=torch.uint8)
    found = torch.tensor([[0, 1, 0, 1]], dtype=torch.uint8)
    classes = MaskClasses(("yes",), ((255, 255, 255),), True) if multilabel else BINARY
    counted = scores(classes, found[None] if multilabel else found, truth[None] if multilabel else truth)
    assert (counted.per_class["yes"]["IoU"], counted.per_class["yes"]["support"]) == (1.0, 1)


def test_7_counts_are_exact_above_2_to_the_24():
    truth = torch.zeros(4200, 4000, dtype=torch.uint8)
    truth[-1, -3:] = 1
    confusion = scores(BINARY, torch.zeros_like(truth), truth).confusion
    np.testing.assert_array_equal(confusion, [[4200 * 4000 - 3, 0], [3, 0]])
    assert 4200 * 4000 - 3 > 2**24


def test_8_means_over_classes_are_means():
    found, truth = (torch.randint(0, 3, (16, 16), dtype=torch.uint8) for _ in range(2))
    result = scores(THREE, found, truth)
    each = [((found == c) & (truth == c)).sum() / ((found == c) | (truth == c)).sum() for c in range(3)]
    assert result.summary["mIoU"] == pytest.approx(float(sum(each)) / 3)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_8_equal_class_weights_are_no_class_weights(name):
    logits, masks = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    weighted = segmentation_loss(logits, masks, [LossTerm(name)], torch.ones(3)).total
    torch.testing.assert_close(weighted, value(name, logits, masks))


def test_8_absent_classes_do_not_count_as_found():
    truth = torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8)
    result = scores(THREE, torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8), truth)
    assert result.summary["mIoU"] == pytest.approx(1 / 3)
    assert result.per_class["c"]["IoU"] is None
