"""What breaks in effdet 0.4.1 does not break here: each test is named after one such breakage."""

from copy import deepcopy
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from lightning import Trainer
from scenes import TINY, tiny_detector, write_coco

from densenet_suite import ConfigError, DataError, DetectionData, DetectionTask, Postprocess, create_detector
from densenet_suite.detection.anchors import anchor_boxes
from densenet_suite.detection.loss import detection_loss
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.metric import CocoEvaluator, to_file
from densenet_suite.detection.samples import Sample, collate
from densenet_suite.detection.structures import IGNORE, Detections, RawDetections
from densenet_suite.detection.variants import DETECTORS
from densenet_suite.sampling import SequentialShard


def batch_of(root, size=(64, 96), split="train", **options):
    data = DetectionData(root, size, 16, holdout=0, workers=0, **options)
    (batch,) = data.eval_dataloader(split)
    return data, batch


def trained_loss(model, batch):
    loss = detection_loss(model.train()(batch.images), batch.boxes, batch.labels)
    loss.total.backward()
    return loss


def test_a_single_class_at_128_pixels_has_fewer_than_5000_candidates():
    model = tiny_detector(1, TINY.with_numbers(max_level=7)).eval()
    with torch.no_grad():
        raw = model(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))
    assert raw.class_logits.numel() < 5000
    (found,) = Postprocess(score_threshold=0.0, iou_threshold=1.0)(raw)
    assert len(found.scores) == 100


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_a_split_without_any_detection_is_evaluated(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("densenet_suite.detection.metric.is_installed", lambda name: name == engine)
    data, _ = batch_of(write_coco(tmp_path, [((64, 96), [{"bbox": [8, 8, 20, 20]}]), ((64, 96), [])]))
    evaluator = CocoEvaluator(data.split("train"))
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    evaluator.update(0, nothing)
    evaluator.update(1, nothing)
    assert evaluator.compute().summary["AP"] == 0


@pytest.fixture(scope="module", params=[("nearest", "same"), ("nearest", "symmetric"), ("bilinear", "symmetric")])
def five_levels(request):
    resample, padding = request.param
    return tiny_detector(2, replace(TINY.with_numbers(max_level=7), resample=resample, padding=padding)).eval()


@pytest.mark.parametrize("size", [(97, 131), (64, 64), (300, 500), (8, 1200), (1, 1)])
def test_images_of_any_size_are_taken(size, five_levels):
    with torch.no_grad():
        raw = five_levels(torch.zeros(1, 3, *size, dtype=torch.uint8))
    cells = sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in (8, 16, 32, 64, 128))
    assert raw.class_logits.shape == (1, 9 * cells, 2)
    assert raw.box_deltas.shape == (1, 9 * cells, 4)
    assert raw.anchors.shape == (9 * cells, 4)


def test_the_callers_numbers_and_names_stay_as_they_are():
    table, spec, names = deepcopy(DETECTORS), replace(TINY), ["b", "a"]
    create_detector(spec, classes=names, backbone="efficientnet(width=0.25, depth=0.25)").train()
    assert (DETECTORS, spec, names) == (table, TINY, ["b", "a"])


# their first map has stride 4, and effdet's taps are positions
@pytest.mark.parametrize("name", ["timm/convnext_atto", "timm/swin_tiny_patch4_window7_224", "timm/hgnetv2_b0"])
def test_backbones_that_begin_at_stride_4_train(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes are checked in smaller networks
    model = tiny_detector(2, backbone=name)
    images = torch.randint(0, 256, (2, 3, 65, 90), dtype=torch.uint8)
    raw = model.train()(images)
    detection_loss(raw, torch.tensor([[[8.0, 8, 50, 60]]] * 2), torch.tensor([[0], [1]])).total.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []


def test_images_of_four_bands_go_through_batch_and_model():
    pixels = torch.randint(0, 256, (4, 64, 96), dtype=torch.uint8)
    sample = Sample(pixels, torch.tensor([[8.0, 8, 50, 60]]), torch.tensor([1]), 0, (64, 96), (1.0, 1.0))
    batch = collate([sample, sample])
    assert torch.isfinite(trained_loss(tiny_detector(2, in_channels=4), batch).total)


def test_grey_images_go_through_data_and_model(tmp_path):
    _, batch = batch_of(write_coco(tmp_path, [((64, 96), [{"bbox": [8, 8, 20, 20]}])] * 2), bands=1)
    assert batch.images.shape[1] == 1
    assert torch.isfinite(trained_loss(tiny_detector(3, in_channels=1), batch).total)


def test_the_first_class_is_a_class_and_not_the_background(tmp_path):
    objects = [{"bbox": [10, 12, 40, 36], "category_id": 0}]
    _, batch = batch_of(write_coco(tmp_path, [((64, 96), objects)] * 2, categories=(0, 1)))
    assert batch.labels.tolist() == [[0], [0]]
    torch.manual_seed(0)
    model = tiny_detector(2)
    raw = model.train()(batch.images)
    matched = match_anchors(batch.boxes, batch.labels, raw.anchors) != IGNORE
    logits = raw.class_logits.detach().requires_grad_()
    detection_loss(raw._replace(class_logits=logits), batch.boxes, batch.labels).total.backward()
    assert (logits.grad[matched][:, 0] < 0).all()  # raised where the object is
    assert (logits.grad[matched][:, 1] > 0).all()
    assert (logits.grad[~matched] > 0).all()


def test_objects_of_the_first_class_are_learnt(tmp_path):
    objects = [{"bbox": [10, 12, 40, 36], "category_id": 0}]
    _, batch = batch_of(write_coco(tmp_path, [((64, 96), objects)] * 2, categories=(0, 1)))
    model = tiny_detector(2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(16):
        optimizer.zero_grad()
        losses.append(float(trained_loss(model, batch).classification.detach()))
        optimizer.step()
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("classes", [2, 5])
def test_a_model_for_another_number_of_classes_than_the_data_has_is_refused(classes, synthetic):
    data = DetectionData(synthetic, (64, 96), 4, workers=0)  # four classes
    task = DetectionTask(tiny_detector(classes))
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match=r"the data has 4 classes, the model [25](.|\n)*classes=data\.classes"):
        trainer.fit(task, data)


def test_inverted_boxes_are_refused(tmp_path):
    root = write_coco(tmp_path, [((64, 96), [{"bbox": [40, 40, -20, 20]}])])
    with pytest.raises(DataError, match="its width or height is negative"):
        batch_of(root)


def test_boxes_without_an_area_are_dropped_and_counted(tmp_path):
    objects = [{"bbox": [10, 10, 0, 20]}, {"bbox": [10, 10, 30, 20]}, {"bbox": [30, 10, 20, 0]}]
    data, batch = batch_of(write_coco(tmp_path, [((64, 96), objects)]))
    assert batch.labels.tolist() == [[0]]
    assert [finding["count"] for finding in data.split("train").report()["findings"]] == [2]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A picture of 300 objects."""
    objects = [{"bbox": [4 + 28 * (i % 18), 4 + 28 * (i // 18), 22, 22]} for i in range(300)]
    return batch_of(write_coco(tmp_path_factory.mktemp("crowded"), [((512, 512), objects)]), (512, 512))


def test_three_hundred_objects_of_an_image_reach_the_batch(crowded):
    assert (crowded[1].labels != IGNORE).sum() == 300


def test_three_hundred_objects_of_an_image_have_anchors_and_count_in_the_loss(crowded):
    _, batch = crowded
    sides = [-(-512 // stride) for stride in (8, 16, 32, 64, 128)]
    anchors = anchor_boxes((512, 512), [(side, side) for side in sides], 4.0, TINY.aspects)
    assert set(match_anchors(batch.boxes, batch.labels, anchors)[0].tolist()) == {IGNORE, *range(300)}
    raw = RawDetections(torch.zeros(1, len(anchors), 3), torch.zeros(1, len(anchors), 4), anchors)
    assert detection_loss(raw, batch.boxes, batch.labels).positives >= 300


def test_three_hundred_objects_of_an_image_are_detected_and_scored(crowded):
    data, batch = crowded
    logits = torch.full((1, 300, 3), -20.0)
    logits[0, :, 0] = torch.linspace(1, 5, 300)
    raw = RawDetections(logits, torch.zeros(1, 300, 4), batch.boxes[0])
    (found,) = Postprocess(max_detections=300)(raw)
    assert len(found.scores) == 300
    evaluator = CocoEvaluator(data.split("train"), max_detections=300)
    evaluator.update(0, to_file(found, batch.scales[0], batch.sizes[0]))
    summary = evaluator.compute().summary
    assert (summary["AP"], summary["AR_300"]) == pytest.approx((1.0, 1.0), abs=1e-9)


@pytest.mark.parametrize("size", [(8, 1200), (1200, 8)])
def test_an_image_of_1200x8_trains(size, tmp_path):
    height, width = size
    objects = [{"bbox": [width / 4, height / 4, width / 2, height / 2]}]
    data = DetectionData(write_coco(tmp_path, [(size, objects)] * 4), (64, 96), 4, holdout=0, workers=0)
    model = tiny_detector(3)
    for loader in (data.train_dataloader(), data.eval_dataloader("train")):
        (batch,) = loader
        assert batch.images.shape == (4, 3, 64, 96)
        assert torch.isfinite(trained_loss(model, batch).total)
    assert (batch.labels == 0).all()


@pytest.mark.parametrize("value", [1000.0, -1000.0])
def test_logits_of_a_thousand_in_bfloat16_have_a_finite_loss_and_gradients(value):
    anchors = anchor_boxes((64, 64), [(8, 8), (4, 4)], 4.0, TINY.aspects)
    shape = (1, len(anchors))
    logits = torch.full((*shape, 3), value, dtype=torch.bfloat16, requires_grad=True)
    deltas = torch.full((*shape, 4), value, dtype=torch.bfloat16, requires_grad=True)
    loss = detection_loss(
        RawDetections(logits, deltas, anchors), torch.tensor([[[8.0, 8, 40, 40]]]), torch.tensor([[1]])
    )
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(deltas.grad).all()
    assert logits.grad.abs().sum() > 0


def test_another_number_of_anchors_reaches_both_heads_and_the_anchors():
    spec = replace(TINY, aspects=((1.0, 1.0), (2.0, 0.5)))
    model = tiny_detector(5, spec).eval()
    assert model.class_head.predict.pointwise.out_channels == 6 * 5
    assert model.box_head.predict.pointwise.out_channels == 6 * 4
    with torch.no_grad():
        raw = model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert len({raw.class_logits.shape[1], raw.box_deltas.shape[1], len(raw.anchors)}) == 1


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_several_processes_count_no_image_twice(processes, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pictures = [((64, 96), [{"bbox": [*rng.integers(0, 40, 2).tolist(), 20, 20]}]) for _ in range(5)]
    truth = batch_of(write_coco(tmp_path, pictures))[0].split("train")
    found = {}
    for i, image in enumerate(truth.images):
        boxes = torch.from_numpy(image.objects.boxes).float() + (i % 3) * 2
        found[i] = Detections(boxes, torch.tensor([0.9 - i / 10]), torch.from_numpy(image.objects.labels))
    single = CocoEvaluator(truth)
    shards = [list(SequentialShard(len(truth), rank, processes)) for rank in range(processes)]
    parts = []
    for shard in shards:
        evaluator = CocoEvaluator(truth)
        for key in shard:
            evaluator.update(key.index, found[key.index])
            single.update(key.index, found[key.index])
        parts.append(evaluator)
    assert sorted(key.index for shard in shards for key in shard) == [0, 1, 2, 3, 4]

    def exchange(results, mine):
        results[:] = [part._rows for part in parts]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
    parts[0].gather()
    assert [index for index, _ in parts[0].detections()] == [0, 1, 2, 3, 4]
    assert parts[0].compute().summary == single.compute().summary


def test_an_image_that_two_processes_have_counts_once(tmp_path, monkeypatch):
    truth = batch_of(write_coco(tmp_path, [((64, 96), [{"bbox": [10, 10, 20, 20]}])]))[0].split("train")
    one, other = CocoEvaluator(truth), CocoEvaluator(truth)
    for evaluator in (one, other):
        evaluator.update(0, Detections(torch.tensor([[10.0, 10, 30, 30]]), torch.ones(1), torch.zeros(1).long()))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda parts, mine: parts.__setitem__(slice(None), [mine, other._rows])
    )
    one.gather()
    assert one.compute().summary["AP"] == pytest.approx(1.0, abs=1e-9)
