"""Scores are torchmetrics' where it is right, and else those of a plain computation; and the rules for empty cases."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_jaccard_index,
    multiclass_precision,
    multiclass_recall,
)

from densenet_suite.segmentation import metric as metric_module
from densenet_suite.segmentation.boundary import boundary_overlap, hausdorff, signed_distance
from densenet_suite.segmentation.metric import SegmentationMetric
from densenet_suite.segmentation.structures import IGNORE, MaskClasses


def classes(k, multilabel=False):
    return MaskClasses(tuple(f"class {i}" for i in range(k)), ((0, 0, 0),) * k, multilabel)


def score(found, truth, k, multilabel=False, boundary=False):
    metric = SegmentationMetric(classes(k, multilabel), boundary=boundary)
    for i, pair in enumerate(zip(found, truth, strict=True)):
        metric.update(i, *(torch.as_tensor(mask, dtype=torch.uint8) for mask in pair))
    return metric.compute()


def masks(k=4, shape=(6, 20, 30), multilabel=False):
    """Return masks found and true, three of four pixels alike."""
    shape = (shape[0], k, *shape[1:]) if multilabel else shape
    truth, other = (torch.randint(0, 2 if multilabel else k, shape, dtype=torch.uint8) for _ in range(2))
    found = torch.where(torch.rand(shape) < 0.75, truth, other)
    return found, truth.masked_fill(torch.rand(shape) < 0.1, IGNORE)


def column(scores, name):
    return [values[name] for values in scores.per_class.values()]


def test_scores_of_exclusive_classes_are_torchmetrics():
    found, truth = masks()
    scores = score(found, truth, 4)
    peers = {
        "IoU": multiclass_jaccard_index,
        "Dice": multiclass_f1_score,
        "precision": multiclass_precision,
        "recall": multiclass_recall,
    }
    for name, peer in peers.items():
        expected = peer(found, truth.long(), num_classes=4, average=None, ignore_index=IGNORE)
        assert column(scores, name) == pytest.approx(expected.tolist(), rel=1e-6)
    accuracy = multiclass_accuracy(found, truth.long(), num_classes=4, average="micro", ignore_index=IGNORE)
    assert scores.summary["pixel_accuracy"] == pytest.approx(float(accuracy), rel=1e-6)
    confusion = multiclass_confusion_matrix(found, truth.long(), num_classes=4, ignore_index=IGNORE)
    np.testing.assert_array_equal(scores.confusion, confusion.numpy())
    assert scores.confusion.dtype == np.int64


def test_scores_of_overlapping_classes_are_torchmetrics():
    found, truth = masks(3, multilabel=True)
    scores = score(found, truth, 3, multilabel=True)
    peers = {
        "IoU": binary_jaccard_index,
        "Dice": binary_f1_score,
        "precision": binary_precision,
        "recall": binary_recall,
    }
    for name, peer in peers.items():
        expected = [float(peer(found[:, c], truth[:, c].long(), ignore_index=IGNORE)) for c in range(3)]
        assert column(scores, name) == pytest.approx(expected, rel=1e-6)
    assert scores.confusion is None
    assert "pixel_accuracy" not in scores.summary


@pytest.mark.parametrize("multilabel", [False, True])
def test_means_are_over_classes_and_image_means_over_images_of_means_over_classes(multilabel):
    found, truth = masks(3, multilabel=multilabel)
    found[0], truth[0] = 0, 0  # an image without two of the classes, or without any
    scores = score(found, truth, 3, multilabel)
    assert scores.summary["mIoU"] == pytest.approx(np.mean(column(scores, "IoU")))
    assert scores.summary["mDice"] == pytest.approx(np.mean(column(scores, "Dice")))
    each = {"IoU": [], "Dice": []}
    for f, t in zip(found.numpy(), truth.numpy(), strict=True):
        of_image = {"IoU": [], "Dice": []}
        for c in range(3):
            f_c, t_c = (f[c] == 1, t[c] == 1) if multilabel else (f == c, t == c)
            f_c = f_c & ((t[c] if multilabel else t) != IGNORE)
            if (f_c | t_c).any():
                of_image["IoU"].append((f_c & t_c).sum() / (f_c | t_c).sum())
                of_image["Dice"].append(2 * (f_c & t_c).sum() / (f_c.sum() + t_c.sum()))
        for name, values in of_image.items():
            each[name] += [np.mean(values)] if values else []
    assert len(each["IoU"]) == (5 if multilabel else 6)
    assert scores.summary["image_mIoU"] == pytest.approx(np.mean(each["IoU"]))
    assert scores.summary["image_mDice"] == pytest.approx(np.mean(each["Dice"]))


def test_a_class_that_is_nowhere_has_no_score_and_no_part_in_a_mean():
    scores = score([[[0, 0, 1, 1]]], [[[0, 0, 1, 0]]], 3)
    nothing = {"IoU": None, "Dice": None, "precision": None, "recall": None, "support": 0, "images": 0}
    assert scores.per_class["class 2"] == nothing
    assert scores.summary["mIoU"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_class_that_is_found_where_there_is_none_scores_zero():
    scores = score([[[0, 0, 2, 2]]], [[[0, 0, 0, 0]]], 3)
    false = {"IoU": 0.0, "Dice": 0.0, "precision": 0.0, "recall": None, "support": 0, "images": 0}
    assert scores.per_class["class 2"] == false
    assert scores.summary["mIoU"] == pytest.approx(1 / 4)


def test_a_class_that_is_missed_scores_zero():
    scores = score([[[0, 0, 0, 0]]], [[[0, 0, 1, 1]]], 2)
    missed = {"IoU": 0.0, "Dice": 0.0, "precision": None, "recall": 0.0, "support": 2, "images": 1}
    assert scores.per_class["class 1"] == missed


def test_support_counts_pixels_and_images_of_the_truth():
    truth = np.array([[[1, 1, 255]], [[0, 0, 0]], [[1, 0, 255]]], np.uint8)
    scores = score(np.ones_like(truth), truth, 2)
    assert column(scores, "support") == [4, 3]
    assert column(scores, "images") == [2, 2]


@pytest.mark.parametrize("multilabel", [False, True])
def test_nothing_evaluated_has_no_scores(multilabel):
    scores = SegmentationMetric(classes(2, multilabel), boundary=True).compute()
    assert set(scores.summary.values()) == {None}
    assert column(scores, "support") == [0, 0]


def test_boundaries_are_scored_if_asked_for():
    found, truth = masks(2)
    names = {"boundary_IoU", "HD95"}
    assert names.isdisjoint(score(found, truth, 2).summary)
    scores = score(found, truth, 2, boundary=True)
    assert names <= scores.summary.keys()
    assert all(names <= values.keys() for values in scores.per_class.values())


def test_an_image_that_is_added_again_replaces_itself():
    metric = SegmentationMetric(classes(2))
    truth = torch.tensor([[0, 1]], dtype=torch.uint8)
    metric.update(0, 1 - truth, truth)
    metric.update(0, truth, truth)
    scores = metric.compute()
    assert scores.summary["mIoU"] == 1
    assert scores.confusion.sum() == 2


def test_images_may_have_any_sizes():
    metric = SegmentationMetric(classes(2))
    for i, size in enumerate([(1, 1), (3, 5), (8, 2)]):
        metric.update(i, torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8))
    assert metric.compute().per_class["class 1"]["support"] == 32


def test_large_scenes_are_counted_in_pieces(monkeypatch):
    found, truth = masks()
    expected = score(found, truth, 4)
    monkeypatch.setattr(metric_module, "_CHUNK", 37)
    got = score(found, truth, 4)
    np.testing.assert_array_equal(got.confusion, expected.confusion)


def test_as_many_classes_as_a_mask_holds_are_counted():
    truth = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    scores = score(truth.clamp(max=254), truth, 255)
    np.testing.assert_array_equal(scores.confusion, np.eye(255))


@pytest.mark.parametrize("k", [2, 3, 6, 10, 11, 19])
def test_each_image_is_counted_like_torchmetrics(k):
    found, truth = masks(k, (3, 65, 47))
    for f, t in zip(found, truth, strict=True):
        expected = multiclass_confusion_matrix(f, t.long(), num_classes=k, ignore_index=IGNORE)
        np.testing.assert_array_equal(score([f], [t], k).confusion, expected.numpy())


def test_masks_may_be_views():
    found, truth = masks()
    expected = score(found[..., ::2].clone(), truth[..., ::2].clone(), 4)
    np.testing.assert_array_equal(score(found[..., ::2], truth[..., ::2], 4).confusion, expected.confusion)


@pytest.mark.parametrize("values", [2, 3, 10, 11, 19, 254, 255])
def test_other_devices_count_as_the_cpu_does(values, monkeypatch):
    monkeypatch.setattr(metric_module, "_CHUNK", 500)
    found, truth = (mask.flatten(1) for mask in masks(values))
    expected = metric_module._count_on_cpu(truth.numpy(), found.numpy(), values)
    np.testing.assert_array_equal(metric_module._count_on_device(truth, found, values), expected)
    assert expected.sum() == (truth != IGNORE).sum()


def as_on_another_device(truth, found, values):
    return metric_module._count_on_device(torch.from_numpy(truth), torch.from_numpy(found), values)


@pytest.mark.parametrize("count", [metric_module._count_on_cpu, as_on_another_device])
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("beyond", [1, 2, 126, 250])
def test_a_value_that_is_no_class_is_refused(k, multilabel, beyond, count, monkeypatch):
    monkeypatch.setattr(metric_module, "_count_on_cpu", count)
    last = 1 if multilabel else k - 1
    found, truth = (mask[0] for mask in masks(k, (1, 7, 9), multilabel))
    spoilt, unknown = found.clone(), truth.clone()
    spoilt[..., 3, 4], unknown[..., 3, 4] = last + beyond, IGNORE
    metric = SegmentationMetric(classes(k, multilabel))
    with pytest.raises(ValueError, match=f"a mask that was found holds {last + beyond}: its values are 0 to {last}$"):
        metric.update(0, spoilt, unknown)
    message = f"a true mask holds {last + beyond}: its values are 0 to {last}, 255 where not known"
    with pytest.raises(ValueError, match=message):
        metric.update(0, found, spoilt)
    assert metric.compute().summary["mIoU"] is None


def test_masks_of_another_shape_are_refused():
    def mask(*shape):
        return torch.zeros(shape, dtype=torch.uint8)

    exclusive, overlapping = SegmentationMetric(classes(2)), SegmentationMetric(classes(2, multilabel=True))
    with pytest.raises(ValueError, match=r"masks found \(4, 5\) and true \(4, 6\): both are \[h w\]"):
        exclusive.update(0, mask(4, 5), mask(4, 6))
    with pytest.raises(ValueError, match=r"masks found \(2, 4, 5\) and true \(2, 4, 5\): both are \[h w\]"):
        exclusive.update(0, mask(2, 4, 5), mask(2, 4, 5))
    with pytest.raises(ValueError, match=r"masks found \(4, 5\) and true \(4, 5\): both are \[2 h w\]"):
        overlapping.update(0, mask(4, 5), mask(4, 5))
    with pytest.raises(ValueError, match=r"masks found \(1, 4, 5\) and true \(1, 4, 5\): both are \[2 h w\]"):
        overlapping.update(0, mask(1, 4, 5), mask(1, 4, 5))


def blobs(shape, seed):
    """Return a smooth random region."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape).astype(np.float32), None, 3)
    return noise > np.median(noise)


def by_erosions(mask):
    """Do what the authors of boundary IoU do: erode by a square, again and again."""
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(np.uint8)
    times = max(1, round(0.02 * np.hypot(height, width)))
    return mask & (cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1] == 0)


@pytest.mark.parametrize("shape", [(5, 8), (40, 70), (210, 300)])
def test_boundary_iou_is_by_erosion(shape):
    found, truth = blobs(shape, 1), blobs(shape, 2)
    bands = by_erosions(found), by_erosions(truth)
    assert boundary_overlap(found, truth) == ((bands[0] & bands[1]).sum(), (bands[0] | bands[1]).sum())


def by_every_pair(found, truth):
    """Compare each pixel of one outline with each of the other."""
    edges = [np.argwhere(mask & ~binary_erosion(mask)) for mask in (found, truth)]
    distances = cdist(*edges)
    return max(np.percentile(distances.min(axis), 95) for axis in (0, 1))


@pytest.mark.parametrize("shape", [(5, 8), (40, 70), (90, 60)])
def test_hausdorff_is_by_every_pair_of_pixels(shape):
    found, truth = blobs(shape, 1), blobs(shape, 2)
    assert hausdorff(found, truth) == pytest.approx(by_every_pair(found, truth), rel=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (300, 301), (7, 900)])
def test_distances_do_not_depend_on_the_threads_of_opencv(shape):
    region, everywhere = np.random.default_rng(0).random(shape) > 0.998, np.ones(shape, bool)
    usual = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 2, 3, 8):
            cv2.setNumThreads(threads)
            found.append(signed_distance(region, everywhere))
    finally:
        cv2.setNumThreads(usual)
    assert all(np.array_equal(distances, found[0]) for distances in found)


def test_hausdorff_of_a_shifted_square_is_the_shift():
    truth = np.zeros((50, 60), bool)
    truth[10:20, 10:20] = True
    assert hausdorff(np.roll(truth, 7, axis=1), truth) == pytest.approx(7)
    assert hausdorff(truth, truth) == 0


def test_hausdorff_has_a_rule_for_what_is_empty():
    empty, region = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    assert hausdorff(empty, empty) is None
    assert hausdorff(empty, region) == hausdorff(region, empty) == 50


def test_images_without_a_class_have_no_part_in_its_distance():
    truth = np.zeros((3, 30, 40), np.uint8)
    truth[0, 5:15, 5:15] = 1
    found = np.roll(truth, 4, axis=1)  # right class, 4 pixels off
    found[2, 0, 0] = 1  # a false alarm: the diagonal, 50; the image between has neither
    scores = score(found, truth, 2, boundary=True)
    assert scores.per_class["class 1"]["HD95"] == pytest.approx((4 + 50) / 2)


def test_boundary_iou_is_of_all_images_together():
    truth = np.stack([blobs((40, 70), seed) for seed in (1, 2)]).astype(np.uint8)
    found = np.stack([blobs((40, 70), seed) for seed in (3, 4)]).astype(np.uint8)
    both, either = np.sum([boundary_overlap(f == 1, t == 1) for f, t in zip(found, truth, strict=True)], 0)
    scores = score(found, truth, 2, boundary=True)
    assert scores.per_class["class 1"]["boundary_IoU"] == pytest.approx(both / either)
    assert scores.summary["boundary_IoU"] == pytest.approx(np.mean(column(scores, "boundary_IoU")))
