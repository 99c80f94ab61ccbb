"""Our scores are pycocotools' on the same detections, which it reads from the file itself."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable, repeatable_in_part
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import write_coco
from torch.utils.data import DataLoader

from densenet_suite import DetectionData
from densenet_suite.detection import coco_engines
from densenet_suite.detection.coco_json import read_coco
from densenet_suite.detection.datasets import DetectionSet, LabelledImage, Objects
from densenet_suite.detection.layout import find_split
from densenet_suite.detection.metric import CocoEvaluator, to_file
from densenet_suite.detection.samples import DetectionSamples, collate
from densenet_suite.detection.structures import IGNORE, ClassTable, Detections
from densenet_suite.findings import Findings
from densenet_suite.geometry import Letterbox
from densenet_suite.sampling import SequentialShard

PLACES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100"]
REAL = [("coco-mini", "val"), ("coco-official", "train")]


@pytest.fixture(params=["hotcoco", "pycocotools"])
def engine(request, monkeypatch):
    monkeypatch.setattr("densenet_suite.detection.metric.is_installed", lambda name: name == request.param)


@pytest.fixture(scope="module", params=REAL, ids=[name for name, _ in REAL])
def real(request, data_folder):
    """A split of real pictures."""
    name, split = request.param
    paths = find_split(data_folder(name), split)
    return read_coco(split, paths.annotations, paths.images)


@pytest.fixture(scope="module")
def batches(real):
    """The split as the network gets it."""
    samples = DetectionSamples(real, (96, 128), 3, (0, 0, 0), None, 0)
    return list(DataLoader(samples, 8, sampler=SequentialShard(len(real)), collate_fn=collate))


def noisy(truth, seed=0, classes=None):
    """Return detections of each image: most objects, moved a little, some with a wrong class, and some of nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for image in truth.images:
        objects = image.objects
        kept = rng.random(len(objects)) < 0.85
        boxes = objects.boxes[kept]
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + rng.normal(0, 0.06, boxes.shape) * sides
        labels = np.where(rng.random(len(boxes)) < 0.1, rng.integers(0, 80, len(boxes)), objects.labels[kept])
        corners = rng.uniform(0, [image.width, image.height], (3, 2))
        empty = np.concatenate([corners, corners + rng.uniform(5, 200, (3, 2))], 1)
        boxes = np.concatenate([boxes, empty, boxes[:2]])  # and some twice
        labels = np.concatenate([labels, rng.integers(0, 80, 3), labels[:2]])
        scores = torch.from_numpy(rng.uniform(0.01, 1, len(boxes)))
        labels = labels % len(truth.classes)
        found.append(Detections(torch.from_numpy(boxes).float(), scores.float(), torch.from_numpy(labels)))
    return found


def by_ours(truth, found, most=100):
    evaluator = CocoEvaluator(truth, most)
    for index, detections in enumerate(found):
        evaluator.update(index, detections)
    return evaluator.compute()


def by_pycocotools(truth, found, most=100):
    """Score by the book: the file, and a dict for each detection."""
    results = []
    for image, detections in zip(truth.images, found, strict=True):
        for box, score, label in zip(*detections, strict=True):
            x1, y1, x2, y2 = box.double().tolist()
            results.append(
                {
                    "image_id": image.id,
                    "category_id": truth.classes.ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(str(truth.annotations))
        evaluation = COCOeval(ground, ground.loadRes(results), "bbox")
        evaluation.params.imgIds = [image.id for image in truth.images]
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_scores_of_real_pictures_are_pycocotools(real, engine):
    found = noisy(real)
    ours, theirs = by_ours(real, found), by_pycocotools(real, found)
    assert 0.2 < ours.summary["AP"] < 0.9
    assert [ours.summary[place] for place in PLACES] == pytest.approx(list(theirs.stats[:9]), abs=1e-9)


def test_scores_of_each_class_are_pycocotools(real, engine):
    found = noisy(real, seed=1)
    ours, theirs = by_ours(real, found), by_pycocotools(real, found).eval["precision"]
    columns = {key: k for k, key in enumerate(sorted(real.classes.ids))}
    for name, key in zip(real.classes.names, real.classes.ids, strict=True):
        values = theirs[:, :, columns[key], 0, 2]
        scores = ours.per_class[name]
        if (values == -1).all():
            assert (scores["AP"], scores["AP50"], scores["objects"]) == (None, None, 0)
        else:
            assert scores["AP"] == pytest.approx(values.mean(), abs=1e-9)
            assert scores["AP50"] == pytest.approx(values[0].mean(), abs=1e-9)
            assert scores["objects"] > 0


def test_the_precision_recall_curves_are_pycocotools(real, engine):
    found = noisy(real, seed=2)
    order = np.argsort(real.classes.ids)
    theirs = by_pycocotools(real, found).eval["precision"][0, :, :, 0, 2]
    np.testing.assert_allclose(by_ours(real, found).precision[:, order], theirs, rtol=0, atol=1e-9)


ENGINES = {"hotcoco": coco_engines.by_hotcoco, "pycocotools": coco_engines.by_pycocotools}


@pytest.mark.parametrize("most", [15, 100])
@pytest.mark.parametrize(
    ("name", "images", "classes"), [("pycocotools", 64, 40), ("hotcoco", 64, 40), ("hotcoco", 7, 33)]
)
def test_precision_and_recall_are_pycocotools_at_every_overlap_size_and_limit(
    real, name, images, classes, most, monkeypatch
):
    monkeypatch.setattr(coco_engines, "_IMAGES", images)
    monkeypatch.setattr(coco_engines, "_CLASSES", classes)
    found = noisy(real, seed=3)
    rows = {i: np.column_stack([values.numpy() for values in detections]) for i, detections in enumerate(found)}
    curves = ENGINES[name](real, rows, (1, 10, most))
    theirs, order = by_pycocotools(real, found, most).eval, np.argsort(real.classes.ids)
    assert theirs["precision"].shape == (10, 101, len(real.classes), 4, 3)
    np.testing.assert_allclose(curves.precision[:, :, order], theirs["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(curves.recall[:, order], theirs["recall"], rtol=0, atol=1e-9)


def test_ground_truth_through_our_own_path_scores_one(real, batches, engine):
    evaluator = CocoEvaluator(real)
    for batch in batches:
        for i in range(len(batch)):
            objects = batch.labels[i] != IGNORE
            labels = batch.labels[i][objects]
            detections = Detections(batch.boxes[i][objects], torch.ones(len(labels)), labels)
            evaluator.update(int(batch.indices[i]), to_file(detections, batch.scales[i], batch.sizes[i]))
    scores = evaluator.compute()
    assert scores.summary["AP"] == pytest.approx(1.0, abs=1e-9)
    values = [value["AP"] for value in scores.per_class.values() if value["objects"]]
    assert values == pytest.approx([1.0] * len(values), abs=1e-9)


def random_truth(rng, sizes, classes=3):
    """A set of pictures with so many objects each, a few of them crowd regions."""
    images = []
    for i, count in enumerate(sizes):
        corners, sides = rng.uniform(0, 400, (count, 2)), np.exp(rng.uniform(1, 5.5, (count, 2)))
        boxes, crowd = np.concatenate([corners, corners + sides], 1), rng.random(count) < 0.15
        objects = Objects(boxes, rng.integers(0, classes, count), crowd, sides.prod(1), (0,) * count, (None,) * count)
        images.append(LabelledImage(i, Path(f"{i}.png"), 640, 640, objects))
    names = ClassTable.numbered([f"class {i}" for i in range(classes)])
    return DetectionSet("val", Path("val.json"), names, tuple(images), Findings("val"))


def permuted_objects(image, rng, place):
    objects, order = image.objects, rng.permutation(len(image.objects))
    parts = {name: getattr(objects, name)[order] for name in ("boxes", "crowd", "areas")}
    return replace(image, objects=replace(objects, labels=place[objects.labels[order]], **parts))


@pytest.mark.parametrize("kind", ["hotcoco", "pycocotools"])
@repeatable_in_part(2)  # two engines
@given(
    number=st.integers(0, 2**20),
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    classes=st.permutations(range(3)),
    most=st.sampled_from([10, 100]),
)
def test_scores_do_not_depend_on_the_order_of_images_objects_detections_and_classes(kind, number, sizes, classes, most):
    rng = np.random.default_rng(number)  # no two scores or overlaps are equal: of those COCO's protocol takes the first
    truth, place = random_truth(rng, sizes), np.array(classes)
    found = noisy(truth, number)
    order = rng.permutation(len(sizes))
    names = ClassTable.numbered([truth.classes.names[i] for i in np.argsort(place)])
    images = tuple(permuted_objects(truth.images[i], rng, place) for i in order)
    moved = replace(truth, images=images, classes=names)
    turned = []
    for i in order:
        rows = torch.from_numpy(rng.permutation(len(found[i].scores)))
        boxes, scores, labels = (values[rows] for values in found[i])
        turned.append(Detections(boxes, scores, torch.from_numpy(place)[labels]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densenet_suite.detection.metric.is_installed", lambda name: name == kind)
        expected, got = by_ours(truth, found, most), by_ours(moved, turned, most)
    assert got.per_class == expected.per_class
    np.testing.assert_array_equal(got.precision[:, place], expected.precision)
    assert got.summary == pytest.approx(expected.summary, abs=1e-12)  # means over the classes in another order


def small_truth(folder, pictures, **options):
    data = DetectionData(write_coco(folder, pictures, **options), (64, 96), 8, holdout=0, workers=0)
    return data.split("train")


def detections(*rows):
    """Make detections of (x1, y1, x2, y2, score, label)."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def test_an_annotation_with_the_id_0_is_found_like_any_other(tmp_path, engine):
    truth = small_truth(tmp_path, [((64, 96), [{"bbox": [10, 10, 20, 20], "id": 0}])])
    assert by_ours(truth, [detections((10, 10, 30, 30, 0.9, 0))]).summary["AP"] == pytest.approx(1.0, abs=1e-9)


def test_detections_inside_a_crowd_region_are_forgiven(tmp_path, engine):
    objects = [{"bbox": [10, 10, 20, 20]}, {"bbox": [40, 10, 50, 50], "iscrowd": 1}]
    truth = small_truth(tmp_path, [((64, 96), objects)])
    inside = [(45 + i, 15, 55 + i, 25, 0.95, 0) for i in range(5)]
    outside = [(45, 15, 55, 25, 0.95, 1)]  # of another class
    found = detections((10, 10, 30, 30, 0.9, 0), *inside)
    assert by_ours(truth, [found]).summary["AP"] == pytest.approx(1.0, abs=1e-9)
    worse = [detections((10, 10, 30, 30, 0.9, 0), (10, 40, 20, 50, 0.95, 0))]
    assert by_ours(truth, worse).summary["AP"] < 0.6
    assert by_ours(truth, [detections((10, 10, 30, 30, 0.9, 0), *outside)]).summary["AP"] == pytest.approx(1.0)


def test_crowd_regions_are_no_objects_to_find(tmp_path, engine):
    truth = small_truth(tmp_path, [((64, 96), [{"bbox": [10, 10, 50, 50], "iscrowd": 1}])])
    scores = by_ours(truth, [detections((12, 12, 20, 20, 0.9, 0))])
    assert scores.summary["AP"] is None
    assert scores.per_class["class 1"] == {"AP": None, "AP50": None, "objects": 0}


def test_a_split_without_objects_has_no_scores(tmp_path, engine):
    truth = small_truth(tmp_path, [((64, 96), [])] * 2)
    scores = by_ours(truth, [detections(), detections((1, 1, 9, 9, 0.5, 2))])
    assert set(scores.summary.values()) == {None}


def test_nothing_evaluated_has_no_scores(tmp_path, engine):
    truth = small_truth(tmp_path, [((64, 96), [{"bbox": [10, 10, 20, 20]}])])
    assert set(CocoEvaluator(truth).compute().summary.values()) == {None}


def test_objects_count_in_the_class_of_their_size(tmp_path, engine):
    objects = [{"bbox": [0, 0, 20, 20]}, {"bbox": [100, 0, 60, 60]}, {"bbox": [200, 0, 120, 120]}]
    truth = small_truth(tmp_path, [((200, 400), objects)])
    found = detections((0, 0, 20, 20, 0.9, 0), (200, 0, 320, 120, 0.8, 0))
    summary = by_ours(truth, [found]).summary
    sizes = [summary[f"AP_{size}"] for size in ("small", "medium", "large")]
    assert sizes == pytest.approx([1.0, 0.0, 1.0], abs=1e-9)


def test_the_limit_of_detections_is_the_users(tmp_path, engine):
    objects = [{"bbox": [10 * i, 0, 8, 8]} for i in range(30)]
    truth = small_truth(tmp_path, [((64, 400), objects)])
    found = [detections(*((10 * i, 0, 10 * i + 8, 8, 1 - i / 100, 0) for i in range(30)))]
    assert by_ours(truth, found, most=15).summary["AR_15"] == pytest.approx(0.5, abs=1e-9)
    assert by_ours(truth, found, most=30).summary["AR_30"] == pytest.approx(1.0, abs=1e-9)


def best_of_each_class(detections, most):
    rows = detections.scores.argsort(descending=True)
    labels = detections.labels[rows]
    before = (labels[:, None] == labels).tril(-1).sum(1)
    return Detections(*(values[rows][before < most] for values in detections))


@pytest.mark.parametrize("most", [1, 4])
def test_a_limit_below_ten_is_a_limit_too(real, engine, most):
    found = noisy(real, seed=4)
    expected, got = by_ours(real, [best_of_each_class(one, most) for one in found]), by_ours(real, found, most)
    assert 0 < got.summary["AP"] < by_ours(real, found).summary["AP"]
    assert got.summary["AP"] == pytest.approx(expected.summary["AP"], abs=1e-9)
    assert got.summary["AR_10"] == got.summary[f"AR_{most}"] == pytest.approx(expected.summary["AR_100"], abs=1e-9)


def test_only_images_that_were_added_are_scored(tmp_path, engine):
    truth = small_truth(tmp_path, [((64, 96), [{"bbox": [10, 10, 20, 20]}])] * 3)
    evaluator = CocoEvaluator(truth)
    evaluator.update(1, detections((10, 10, 30, 30, 0.9, 0)))
    assert evaluator.compute().summary["AP"] == pytest.approx(1.0, abs=1e-9)


def test_an_image_that_is_added_again_replaces_itself(tmp_path, engine):
    truth = small_truth(tmp_path, [((64, 96), [{"bbox": [10, 10, 20, 20]}])])
    evaluator = CocoEvaluator(truth)
    evaluator.update(0, detections((50, 40, 60, 50, 0.9, 0)))
    evaluator.update(0, detections((10, 10, 30, 30, 0.9, 0)))
    assert evaluator.compute().summary["AP"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_boxes_are_kept_as_exactly_as_they_come(tmp_path, dtype):
    truth = small_truth(tmp_path, [((64, 96), [{"bbox": [10, 10, 20, 20]}])])
    boxes = torch.tensor([[10.1, 10.2, 30.3, 30.7], [1e3 + 1 / 3, 1, 1e3 + 2 / 3, 2]], dtype=dtype)
    scores, labels = torch.tensor([0.9, 0.1], dtype=dtype), torch.tensor([2, 100_001])
    evaluator = CocoEvaluator(truth)
    evaluator.update(0, Detections(boxes, scores, labels))
    ((index, rows),) = evaluator.detections()
    exact = boxes.double()
    expected = torch.cat([exact[:, :2], exact[:, 2:] - exact[:, :2], scores[:, None].double(), labels[:, None]], 1)
    assert index == 0
    np.testing.assert_array_equal(rows, expected.numpy())


SIDES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@repeatable
@given(SIDES, SIDES, st.integers(0, 2**20))
def test_boxes_in_a_letterbox_come_back_in_single_precision(size, canvas, number):
    boxes = np.random.default_rng(number).uniform(0, 1, (5, 4)) * np.tile(size[::-1], 2)
    letterbox = Letterbox.fit(size, canvas)
    inside = torch.from_numpy(letterbox.boxes(boxes)).float()
    found = Detections(inside, torch.ones(5), torch.zeros(5, dtype=torch.int64))
    back = to_file(found, torch.tensor(letterbox.scale), torch.tensor(size)).boxes
    # the box, the scale and the quotient are rounded once each
    np.testing.assert_allclose(back.double(), boxes, rtol=2 * np.finfo(np.float32).eps, atol=0)


def test_detections_in_pixels_of_the_network_go_back_to_the_file_and_stay_inside_it():
    found = detections((8, 4, 16, 12, 0.9, 0), (-5, -5, 999, 999, 0.5, 1))
    back = to_file(found, torch.tensor([0.5, 0.25]), torch.tensor([40, 80]))  # y, x; height, width
    assert back.boxes.tolist() == [[32, 8, 64, 24], [0, 0, 80, 40]]
    assert torch.equal(back.scores, found.scores)


def test_engines_keep_quiet(tmp_path, engine, capfd):
    truth = small_truth(tmp_path, [((64, 96), [{"bbox": [10, 10, 20, 20]}])])
    by_ours(truth, [detections((10, 10, 30, 30, 0.9, 0))])
    by_ours(truth, [detections()])
    assert capfd.readouterr() == ("", "")
