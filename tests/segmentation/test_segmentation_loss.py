"""Each term is what its paper says; what all of them have in common is in test_loss_and_metric_conformance.py."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable
from scipy.ndimage import distance_transform_edt
from segmentation.reference_loss import reference_loss
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss, TverskyLoss
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from densenet_suite import ConfigError
from densenet_suite.segmentation.boundary import signed_distance
from densenet_suite.segmentation.loss import segmentation_loss
from densenet_suite.segmentation.loss_terms import LOSS_NAMES, LossTerm
from densenet_suite.segmentation.structures import IGNORE

WEIGHTS = torch.tensor([0.5, 3.0, 1.0])


def exclusive(ignored=0.2):
    """Return logits [2 3 9 13] and masks [2 9 13]."""
    masks = torch.randint(0, 3, (2, 9, 13), dtype=torch.uint8)
    return torch.randn(2, 3, 9, 13) * 2, masks.masked_fill(torch.rand(2, 9, 13) < ignored, IGNORE)


def overlapping(ignored=0.2):
    """Return logits and masks [2 3 9 13]."""
    masks = torch.randint(0, 2, (2, 3, 9, 13), dtype=torch.uint8)
    return torch.randn(2, 3, 9, 13) * 2, masks.masked_fill(torch.rand(2, 3, 9, 13) < ignored, IGNORE)


def value(name, logits, masks, class_weights=None, **numbers):
    return segmentation_loss(logits, masks, [LossTerm(name, **numbers)], class_weights).total


@st.composite
def batches(draw):
    """Logits, masks and class weights: any number of classes, sizes from a pixel, also without a known pixel."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    overlapping, classes = draw(st.booleans()), draw(st.integers(1, 4))
    images, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    spread = draw(st.sampled_from([0.0, 1.0, 10.0, 100.0, 1e4]))
    logits = (torch.randn(images, classes, height, width) * spread).to(dtype)
    shape = (images, classes, height, width) if overlapping else (images, height, width)
    masks = torch.randint(0, draw(st.integers(1, 2 if overlapping else classes)), shape, dtype=torch.uint8)
    masks = masks.masked_fill(torch.rand(shape) < draw(st.sampled_from([0.0, 0.3, 1.0])), IGNORE)
    weights = draw(st.lists(st.sampled_from([0.0, 0.3, 1.0, 50.0]), min_size=classes, max_size=classes))
    return logits, masks, torch.tensor(weights)


TERMS = st.one_of(
    st.builds(LossTerm, st.sampled_from(["cross_entropy", "dice", "lovasz", "boundary"])),
    st.builds(LossTerm, st.just("focal"), gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    st.builds(LossTerm, st.just("tversky"), alpha=st.floats(0, 1), beta=st.floats(0, 1)),
)


@repeatable
@given(batches(), TERMS)
def test_losses_and_gradients_are_those_of_float64(batch, term):
    logits, masks, weights = batch
    single, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found = segmentation_loss(single, masks, [term], weights).total
    expected = reference_loss(term, double, masks, weights)
    # 1 - p and log(1 - p) have no digit below 2^-24 in float32, and a mean has a few roundings more
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    (gradient,), (wanted,) = torch.autograd.grad(found, single), torch.autograd.grad(expected, double)
    assert torch.isfinite(gradient).all()
    if term.name != "lovasz":  # has corners, where errors that are equal in one precision come in another order
        # of the largest of the batch a millionth, and what the type of the logits can hold
        limits = torch.finfo(logits.dtype)
        close = limits.eps * wanted.abs() + 2e-6 * (1 / logits[:, 0].numel() + wanted.abs().max()) + limits.tiny
        assert ((gradient.double() - wanted).abs() <= close).all()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_of_exclusive_classes_is_torchs(weights):
    logits, masks = exclusive()
    expected = F.cross_entropy(logits, masks.long(), weights, ignore_index=IGNORE)
    torch.testing.assert_close(value("cross_entropy", logits, masks, weights), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_of_overlapping_classes_is_binary(weights):
    logits, masks = overlapping()
    valid = masks != IGNORE
    each = F.binary_cross_entropy_with_logits(logits[valid], masks[valid].float(), reduction="none")
    weight = (torch.ones(3) if weights is None else weights)[:, None, None].expand_as(logits)[valid]
    expected = (each * weight).sum() / weight.sum()
    torch.testing.assert_close(value("cross_entropy", logits, masks, weights), expected)


@pytest.mark.parametrize("make", [exclusive, overlapping])
def test_focal_without_gamma_is_cross_entropy(make):
    logits, masks = make()
    torch.testing.assert_close(value("focal", logits, masks, gamma=0.0), value("cross_entropy", logits, masks))


def test_focal_of_overlapping_classes_is_torchvisions():
    logits, masks = overlapping()
    valid = masks != IGNORE
    expected = sigmoid_focal_loss(logits[valid], masks[valid].float(), alpha=-1, gamma=1.5, reduction="mean")
    torch.testing.assert_close(value("focal", logits, masks, gamma=1.5), expected)


def test_focal_of_exclusive_classes_is_of_the_softmax():
    logits, masks = exclusive(ignored=0)
    truth = logits.double().softmax(1).gather(1, masks[:, None].long())
    expected = (-((1 - truth) ** 2) * truth.log()).mean()
    torch.testing.assert_close(value("focal", logits, masks).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_what_is_certain_has_a_gradient(gamma):
    logits = torch.tensor([1000.0, -1000.0])[None, :, None, None].requires_grad_()
    value("focal", logits, torch.zeros(1, 1, 1, dtype=torch.uint8), gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()


def test_dice_is_smps_where_every_class_is_present():
    logits, masks = exclusive(ignored=0)
    expected = DiceLoss("multiclass", smooth=0.5)(logits, masks.long())
    torch.testing.assert_close(value("dice", logits, masks), expected)
    logits, masks = overlapping(ignored=0)
    expected = DiceLoss("multilabel", smooth=0.5)(logits, masks.float())
    torch.testing.assert_close(value("dice", logits, masks), expected)


def test_tversky_is_smps_where_every_class_is_present():
    logits, masks = exclusive(ignored=0)
    expected = TverskyLoss("multiclass", smooth=0.5, alpha=0.2, beta=0.9)(logits, masks.long())
    torch.testing.assert_close(value("tversky", logits, masks, alpha=0.2, beta=0.9), expected)


def test_tversky_of_equal_costs_is_dice():
    logits, masks = overlapping()
    torch.testing.assert_close(value("tversky", logits, masks, alpha=0.5, beta=0.5), value("dice", logits, masks))


def test_dice_of_an_absent_class_costs_what_is_found_of_it():
    logits = torch.zeros(1, 1, 3, 3)  # a probability of 1/2 in nine pixels
    assert value("dice", logits, torch.zeros(1, 1, 3, 3, dtype=torch.uint8)) == pytest.approx(1 - 1 / 5.5)


def test_sums_of_dice_are_over_the_batch():
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    masks[0] = 1
    logits = torch.where(masks == 1, 50.0, -50.0)
    logits[1, :, :2] = 50.0  # eight false alarms in an empty image
    assert value("dice", logits, masks) == pytest.approx(1 - 33 / 41)


def test_lovasz_of_exclusive_classes_is_smps():
    logits, masks = exclusive()
    expected = LovaszLoss("multiclass", ignore_index=IGNORE)(logits, masks.long())
    torch.testing.assert_close(value("lovasz", logits, masks), expected)


def test_lovasz_is_the_extension_of_the_jaccard_loss():
    probabilities = torch.tensor([0.9, 0.2, 0.6, 0.35, 0.7])
    truth = np.array([1, 1, 0, 0, 1], bool)

    def jaccard_loss(wrong):
        found = truth ^ wrong
        return 1 - (truth & found).sum() / (truth | found).sum()

    errors = np.where(truth, 1 - probabilities, probabilities)
    order = np.argsort(-errors)
    sets = [np.isin(np.arange(5), order[:n]) for n in range(6)]
    steps = [jaccard_loss(after) - jaccard_loss(before) for before, after in itertools.pairwise(sets)]
    logits = torch.stack([torch.zeros(5), probabilities.logit()])[None, :, None]
    found = value("lovasz", logits, torch.from_numpy(truth)[None, None].byte(), torch.tensor([0.0, 1.0]))
    assert float(found) == pytest.approx(sum(errors[order] * steps), rel=1e-5)


def test_lovasz_of_an_overlapping_class_is_that_of_the_class_and_its_absence():
    logits, masks = overlapping(ignored=0.3)
    each = [
        value("lovasz", torch.stack([torch.zeros_like(logits[:, c]), logits[:, c]], 1), masks[:, c]) for c in range(3)
    ]
    torch.testing.assert_close(value("lovasz", logits, masks), torch.stack(each).mean())


def test_lovasz_keeps_its_digits_in_large_images():
    masks = torch.zeros(1, 1000, 1000, dtype=torch.uint8)
    masks[:, :500] = 1
    logits = torch.stack([masks == 1, masks == 0], 1) * 60.0  # all wrong
    assert value("lovasz", logits, masks) == pytest.approx(1, abs=1e-5)


def test_boundary_is_the_mean_of_probability_times_signed_distance():
    logits, masks = exclusive(ignored=0)
    expected = 0.0
    for image, mask in zip(logits.softmax(1).double().numpy(), masks.numpy(), strict=True):
        for c in range(3):
            inside = mask == c
            distance = distance_transform_edt(~inside) - distance_transform_edt(inside)
            expected += (image[c] * (distance - 0.5 * np.sign(distance))).sum() / np.hypot(9, 13)
    assert float(value("boundary", logits, masks)) == pytest.approx(expected / masks.numel() / 3, rel=1e-4)


def test_boundary_costs_more_the_farther_from_the_object():
    masks = torch.zeros(1, 1, 8, 32, dtype=torch.uint8)
    masks[..., :4] = 1
    logits = torch.zeros(1, 1, 8, 32, requires_grad=True)
    value("boundary", logits, masks).backward()
    row = logits.grad[0, 0, 0]
    assert (row.diff() > 0).all()
    assert row[3] < 0 < row[4]


def test_no_outline_runs_between_an_object_and_pixels_that_are_not_known():
    inside, valid = np.zeros((1, 10), bool), np.ones((1, 10), bool)
    inside[:, :3] = True
    valid[:, 3:6] = False
    distance = signed_distance(inside, valid)[0]
    np.testing.assert_array_equal(distance[valid[0]], [-5.5, -4.5, -3.5, 3.5, 4.5, 5.5, 6.5])


@pytest.mark.parametrize(("fill", "sign"), [(True, -1), (False, 1)])
def test_a_region_that_is_everything_or_nothing_is_a_diagonal_away(fill, sign):
    np.testing.assert_array_equal(
        signed_distance(np.full((3, 4), fill), np.ones((3, 4), bool)), np.full((3, 4), sign * 5)
    )


@pytest.mark.parametrize("name", LOSS_NAMES)
@pytest.mark.parametrize("make", [exclusive, overlapping])
def test_only_the_ratio_of_class_weights_matters(name, make):
    logits, masks = make()
    loss = value(name, logits, masks, WEIGHTS)
    torch.testing.assert_close(value(name, logits, masks, WEIGHTS * 100), loss)
    torch.testing.assert_close(value(name, logits, masks, torch.ones(3) * 5), value(name, logits, masks))
    assert abs(loss - value(name, logits, masks)) > 1e-5


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_class_without_weight_is_not_learned(name):
    logits, masks = overlapping()
    loss = value(name, logits, masks, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(loss, value(name, logits[:, [0, 2]], masks[:, [0, 2]]))


def test_the_total_is_the_weighted_sum_of_the_terms():
    logits, masks = exclusive()
    loss = segmentation_loss(logits, masks, [LossTerm(name, weight=i + 0.5) for i, name in enumerate(LOSS_NAMES)])
    assert list(loss.terms) == list(LOSS_NAMES)
    expected = sum((i + 0.5) * loss.terms[name] for i, name in enumerate(LOSS_NAMES))
    torch.testing.assert_close(loss.total, expected)
    for name in LOSS_NAMES:
        torch.testing.assert_close(loss.terms[name], value(name, logits, masks))


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_autocast_changes_nothing(name):
    logits, masks = exclusive()
    expected = value(name, logits, masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(value(name, logits, masks), expected)


def test_masks_of_another_shape_are_refused():
    logits = torch.zeros(2, 3, 4, 5)
    for shape in [(2, 4, 6), (1, 4, 5), (2, 1, 4, 5)]:
        with pytest.raises(ValueError, match=r"do not fit logits \(2, 3, 4, 5\): they are \[b h w\] of classes"):
            segmentation_loss(logits, torch.zeros(shape, dtype=torch.uint8), [LossTerm("dice")])


@pytest.mark.parametrize(
    ("name", "hint"), [("lovas", "did you mean lovasz"), ("bce", "cross_entropy of overlapping classes is BCE")]
)
def test_a_loss_that_is_not_known_is_refused(name, hint):
    with pytest.raises(ConfigError, match=rf"there is no loss '{name}'\n  hint: .*{hint}"):
        LossTerm(name)


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ConfigError, match="the loss has no terms\n  hint: known are cross_entropy, "):
        segmentation_loss(*exclusive(), [])


def test_a_term_that_is_named_twice_is_refused():
    with pytest.raises(ConfigError, match="the loss names dice more than once\n  hint: give the sum of their weights"):
        segmentation_loss(*exclusive(), [LossTerm("dice"), LossTerm("focal"), LossTerm("dice", weight=2)])
