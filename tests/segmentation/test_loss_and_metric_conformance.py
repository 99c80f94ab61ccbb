"""What every loss and every metric must hold, for exclusive classes and for overlapping ones."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable, repeatable_in_part

from densenet_suite.segmentation.loss import segmentation_loss
from densenet_suite.segmentation.loss_terms import LOSS_NAMES, LossTerm
from densenet_suite.segmentation.metric import SegmentationMetric
from densenet_suite.segmentation.structures import IGNORE, MaskClasses

KINDS = ["exclusive", "overlapping"]
SCORES = ["mIoU", "mDice", "image_mIoU", "image_mDice", "boundary_IoU", "HD95"]
every_loss = pytest.mark.parametrize("name", LOSS_NAMES)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_score = pytest.mark.parametrize("name", SCORES)


def random_masks(kind, images=4, ignored=0.2, seed=0):
    """Return masks [images 10 14] or [images 3 10 14] of blocks of 2 x 2."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 5, 7) if kind == "exclusive" else (images, 3, 5, 7)
    masks = torch.randint(0, 3 if kind == "exclusive" else 2, shape, dtype=torch.uint8, generator=generator)
    masks = masks.masked_fill(torch.rand(shape, generator=generator) < ignored, IGNORE)
    return masks.repeat_interleave(2, -1).repeat_interleave(2, -2)


def random_logits(images=4):
    return torch.randn(images, 3, 10, 14) * 2


def value(name, logits, masks, class_weights=None):
    return segmentation_loss(logits, masks, [LossTerm(name)], class_weights).total


def gradient(name, logits, masks):
    logits = logits.detach().requires_grad_()
    value(name, logits, masks).backward()
    return logits.grad


def where_known(masks, shape):
    known = masks != IGNORE
    return (known if masks.ndim == 4 else known[:, None]).expand(shape)


# --- losses


@every_kind
@every_loss
@pytest.mark.parametrize("there", [-7.0, 3e4, float("inf"), float("nan")])
def test_logits_of_ignored_pixels_change_no_loss(name, kind, there):
    logits, masks = random_logits(), random_masks(kind)
    known = where_known(masks, logits.shape)
    changed = torch.where(known, logits, there)
    assert torch.equal(value(name, changed, masks), value(name, logits, masks))
    assert torch.equal(gradient(name, changed, masks), gradient(name, logits, masks))
    assert (gradient(name, changed, masks)[~known] == 0).all()


@every_kind
@pytest.mark.parametrize("name", [name for name in LOSS_NAMES if name != "boundary"])  # has distances over image sizes
def test_ignored_pixels_are_as_if_cut_off(name, kind):
    logits, masks = random_logits(), random_masks(kind)
    masks[..., 6:, :] = IGNORE
    torch.testing.assert_close(value(name, logits, masks), value(name, logits[..., :6, :], masks[..., :6, :]))


@every_kind
@every_loss
def test_permuted_classes_have_the_same_loss(name, kind):
    logits, masks, weights = random_logits(), random_masks(kind), torch.tensor([1.0, 2.0, 0.5])
    order = torch.tensor([2, 0, 1])
    place = torch.arange(256, dtype=torch.uint8)
    place[order] = torch.arange(3, dtype=torch.uint8)
    permuted = place[masks.long()] if kind == "exclusive" else masks[:, order]
    expected = value(name, logits, masks, weights)
    torch.testing.assert_close(value(name, logits[:, order], permuted, weights[order]), expected)


@every_kind
@every_loss
def test_the_order_of_images_and_their_direction_do_not_matter(name, kind):
    logits, masks = random_logits(), random_masks(kind)
    expected = value(name, logits, masks)
    for axes in ([0], [-1], [-2]):
        torch.testing.assert_close(value(name, logits.flip(axes), masks.flip(axes)), expected)


@every_kind
@every_loss
def test_an_empty_image_pushes_false_positives_down(name, kind):
    empty = torch.zeros_like(random_masks(kind, 1, ignored=0))
    grad = gradient(name, random_logits(1), empty)
    if kind == "exclusive":  # the background rises at the cost of the others together
        assert (grad[:, 0] < 0).all()
    else:
        assert (grad > 0).all()


@every_kind
@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_equals_single(name, kind, dtype):
    logits, masks = random_logits().to(dtype), random_masks(kind)
    loss = value(name, logits, masks)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, value(name, logits.float(), masks))
    torch.testing.assert_close(
        gradient(name, logits, masks).float(), gradient(name, logits.float(), masks), rtol=0.01, atol=1e-6
    )


@every_kind
@every_loss
def test_half_precision_holds_in_large_images(name, kind):
    masks = random_masks(kind, 1).repeat_interleave(40, -1).repeat_interleave(40, -2)
    logits = (torch.randn(1, 3, 400, 560) * 2).half()
    assert torch.isfinite(value(name, logits, masks))
    assert torch.isfinite(gradient(name, logits, masks)).all()


@every_kind
@every_loss
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_have_finite_losses_and_gradients(name, kind, size):
    logits, masks = random_logits() * size, random_masks(kind)
    assert torch.isfinite(value(name, logits, masks))
    assert torch.isfinite(gradient(name, logits, masks)).all()


@every_kind
@every_loss
def test_no_valid_pixel_gives_zero_with_a_graph(name, kind):
    logits = random_logits().requires_grad_()
    loss = value(name, logits, torch.full_like(random_masks(kind), IGNORE))
    loss.backward()
    assert loss.shape == ()
    assert loss == 0
    assert (logits.grad == 0).all()


@every_kind
@every_loss
def test_values_that_are_no_class_are_refused(name, kind):
    masks = random_masks(kind)
    masks[0, ..., 0, :2] = 3
    last = 2 if kind == "exclusive" else 1
    with pytest.raises(ValueError, match=rf"a mask holds 3 in [26] pixels: its values are 0 to {last} here, and 255"):
        value(name, random_logits(), masks)


@every_kind
@every_loss
def test_the_truth_itself_costs_least(name, kind):
    masks = random_masks(kind)
    present = masks == 1 if kind == "overlapping" else torch.stack([masks == c for c in range(3)], 1)
    certain = torch.where(present, 30.0, -30.0)
    least = value(name, certain, masks)
    assert least < value(name, certain * 0.05, masks) < value(name, -certain, masks)
    if name != "boundary":
        assert least == pytest.approx(0, abs=1e-5)


# --- metrics


def classes_of(kind, order=(0, 1, 2)):
    names, colours = ("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    return MaskClasses(tuple(names[i] for i in order), tuple(colours[i] for i in order), kind == "overlapping")


def scores(kind, found, truth, order=(0, 1, 2), batch=1, boundary=True):
    """Score images that come in batches of a size."""
    metric = SegmentationMetric(classes_of(kind, order), boundary=boundary)
    for start in range(0, len(found), batch):
        for i, pair in enumerate(zip(found[start : start + batch], truth[start : start + batch], strict=True)):
            metric.update(start + i, *pair)
    return metric.compute()


def found_and_truth(kind, images=5):
    return random_masks(kind, images, ignored=0, seed=1), random_masks(kind, images, seed=2)


@every_kind
@every_score
def test_what_is_found_in_ignored_pixels_changes_no_score(name, kind):
    found, truth = found_and_truth(kind)
    other = torch.where(truth == IGNORE, (found + 1) % (2 if kind == "overlapping" else 3), found)
    assert not torch.equal(other, found)
    assert scores(kind, other, truth).summary[name] == scores(kind, found, truth).summary[name]


@every_kind
@pytest.mark.parametrize("batch", [3, 5])
def test_scores_do_not_depend_on_the_batches(kind, batch):
    found, truth = found_and_truth(kind)
    expected, got = scores(kind, found, truth), scores(kind, found, truth, batch=batch)
    assert (got.summary, got.per_class) == (expected.summary, expected.per_class)


@every_kind
def test_scores_do_not_depend_on_the_order_of_images(kind):
    found, truth = found_and_truth(kind)
    metric = SegmentationMetric(classes_of(kind), boundary=True)
    for i in (3, 0, 4, 2, 1):
        metric.update(i, found[i], truth[i])
    assert metric.compute().summary == scores(kind, found, truth).summary


@every_kind
def test_permuted_classes_have_permuted_scores(kind):
    found, truth = found_and_truth(kind)
    order = [2, 0, 1]
    place = torch.arange(256, dtype=torch.uint8)
    place[order] = torch.arange(3, dtype=torch.uint8)
    turned = [place[m.long()] if kind == "exclusive" else m[:, order] for m in (found, truth)]
    expected, got = scores(kind, found, truth), scores(kind, *turned, order=order)
    assert got.per_class == expected.per_class
    assert got.summary == pytest.approx(expected.summary)


@every_kind
@every_score
def test_the_truth_itself_scores_best(name, kind):
    _, truth = found_and_truth(kind)
    best = 0 if name == "HD95" else 1
    assert scores(kind, truth.masked_fill(truth == IGNORE, 0), truth).summary[name] == best


@every_kind
@every_score
def test_no_valid_pixel_has_no_score(name, kind):
    found, truth = found_and_truth(kind)
    assert scores(kind, found, torch.full_like(truth, IGNORE)).summary[name] is None


@every_kind
def test_values_that_are_no_class_are_refused_by_metrics(kind):
    found, truth = found_and_truth(kind)
    last = 2 if kind == "exclusive" else 1
    for wrong in (3, 254):
        with pytest.raises(ValueError, match=f"a true mask holds {wrong}: its values are 0 to {last}, 255 where"):
            scores(kind, found, truth.masked_fill(truth == 1, wrong))
        with pytest.raises(ValueError, match=f"a mask that was found holds {wrong}: its values are 0 to {last}"):
            scores(kind, found.masked_fill(found == 1, wrong), truth)


@st.composite
def renumbered(draw):
    """Three images found and true, and the same with images and classes in another order."""
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**20))
    images, classes = draw(st.permutations(range(3))), draw(st.permutations(range(3)))
    found = random_masks(kind, 3, ignored=0, seed=seed)
    truth = random_masks(kind, 3, ignored=draw(st.sampled_from([0.0, 0.3, 0.95, 1.0])), seed=seed + 1)
    place = torch.arange(256, dtype=torch.uint8)
    place[list(classes)] = torch.arange(3, dtype=torch.uint8)
    turned = [place[m.long()] if kind == "exclusive" else m[:, list(classes)] for m in (found, truth)]
    return kind, (found, truth), [m[list(images)] for m in turned], classes


def moved_about(masks, seed):
    """The pixels of each image in another order."""
    order = torch.randperm(masks.shape[-1] * masks.shape[-2], generator=torch.Generator().manual_seed(seed))
    return masks.flatten(-2)[..., order].view(masks.shape)


def assert_near(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-12))


@repeatable
@given(renumbered(), st.integers(0, 2**20))
def test_scores_do_not_depend_on_the_order_of_images_classes_and_pixels(case, seed):
    kind, pair, turned, order = case
    expected = scores(kind, *pair, boundary=False)
    got = scores(kind, *(moved_about(masks, seed) for masks in turned), order=order, boundary=False)
    assert got.per_class == expected.per_class
    assert_near(got.summary, expected.summary)  # means over classes and images in another order
    if kind == "exclusive":
        assert (got.confusion == expected.confusion[list(order)][:, list(order)]).all()


@repeatable_in_part(10)  # boundaries take ten times as long
@given(renumbered())
def test_scores_of_boundaries_do_not_depend_on_the_order_of_images_and_classes(case):
    kind, pair, turned, order = case
    expected, got = scores(kind, *pair), scores(kind, *turned, order=order)
    assert_near(got.summary, expected.summary)
    for name, values in expected.per_class.items():
        assert_near(got.per_class[name], values)


PROCESS = """
import json, sys
import torch
from test_loss_and_metric_conformance import classes_of, found_and_truth
from densenet_suite.segmentation.metric import SegmentationMetric
rank, store, results = int(sys.argv[1]), *sys.argv[2:]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
for kind in ("exclusive", "overlapping"):
    metric = SegmentationMetric(classes_of(kind), boundary=True)
    found, truth = found_and_truth(kind)
    for i in (0, 2, 4) if rank == 0 else (1, 3, 4):  # both have the last
        metric.update(i, found[i], truth[i])
    metric.gather()
    with open(f"{results}/{kind}-{rank}.json", "w") as file:
        json.dump([metric.compute().summary, metric.compute().per_class], file)
torch.distributed.destroy_process_group()
"""


def test_scores_of_two_processes_are_those_of_one(tmp_path):
    paths = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "segmentation"), str(REPOSITORY)]
    script = f"import sys; sys.path[:0] = {paths}\n" + PROCESS
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen([*command, str(rank), tmp_path / "store", tmp_path]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    for kind in KINDS:
        expected = scores(kind, *found_and_truth(kind))
        for rank in range(2):
            summary, per_class = json.loads((tmp_path / f"{kind}-{rank}.json").read_text())
            assert summary == expected.summary
            assert per_class == expected.per_class
