"""Targets, losses and detections are effdet's on one set of images: none, one, many, equal and crowded objects."""

import json
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
from effdet.anchors import AnchorLabeler, Anchors
from effdet.bench import DetBenchPredict, DetBenchTrain
from effdet.data.parsers import CocoParserCfg
from effdet.data.parsers.parser_coco import CocoParser
from effdet.loss import DetectionLoss
from effdet_peer import effdet_model, saved, swapped
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from peers import apart
from PIL import Image

from densenet_suite import DetectionData, create_detector
from densenet_suite.detection.boxes import encode_boxes
from densenet_suite.detection.loss import detection_loss
from densenet_suite.detection.matching import match_anchors
from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import IGNORE, Detections, RawDetections
from densenet_suite.preprocess import IMAGENET_MEAN, IMAGENET_STD

SIZE = 128
# x, y, width, height, category, crowd
OBJECTS = {
    "two objects": [(10, 20, 40, 30, 1, 0), (70, 60, 50, 60, 2, 0)],
    "empty": [],
    "crowd": [(0, 0, 128, 64, 1, 1), (30, 70, 33, 21, 3, 0)],
    "only crowd": [(12, 12, 90, 90, 2, 1)],
    "two equal boxes": [(32, 32, 48, 48, 1, 0), (32, 32, 48, 48, 3, 0)],
    "two objects claim one anchor": [(60, 60, 8, 8, 2, 0), (61, 61, 6, 6, 1, 0), (62, 59, 7, 9, 3, 0)],
    "an object equally near to several anchors": [(60, 60, 8, 8, 1, 0)],
    "tiny and thin": [(5, 5, 1, 1, 1, 0), (3, 90, 120, 2, 2, 0), (100, 3, 1.5, 110.25, 3, 0)],
    "the whole image": [(0, 0, 128, 128, 2, 0)],
}


@pytest.fixture(scope="module", params=[1, 3], ids=["one class", "three classes"])
def scene(request, tmp_path_factory):
    """One dataset read by both sides, and one set of weights."""
    classes = request.param
    root = _write(tmp_path_factory.mktemp("scene"), classes)
    data = DetectionData(root, (SIZE, SIZE), len(OBJECTS), holdout=0, workers=0)
    (batch,) = data.eval_dataloader("train")
    most = min(5000, 3069 * classes)  # effdet fails where there are fewer candidates
    peer = effdet_model("efficientdet_d0", (SIZE, SIZE), classes, max_detection_points=most)
    weights = saved(peer.state_dict(), root)
    with pytest.MonkeyPatch.context() as patch:  # building needs no check of shapes
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        ours = create_detector("efficientdet_d0", num_classes=classes, weights=weights).eval()
    return SimpleNamespace(
        classes=classes,
        batch=batch,
        peer=peer,
        ours=ours,
        target=_effdet_target(root),
        images=_effdet_images(root),
    )


def _write(root, classes):
    rng = np.random.default_rng(0)
    (root / "images" / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i, objects in enumerate(OBJECTS.values(), 1):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(root / f"images/train/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE})
        for *box, category, crowd in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": min(category, classes),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": crowd,
                }
            )
    categories = [{"id": i + 1, "name": f"class {i + 1}"} for i in range(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return root


def _effdet_target(root):
    parser = CocoParser(CocoParserCfg(ann_filename=str(root / "annotations" / "instances_train.json"), bbox_yxyx=True))
    entries = [parser.get_ann_info(i) for i in range(len(OBJECTS))]
    boxes = torch.zeros(len(entries), 8, 4)
    labels = torch.full((len(entries), 8), -1)
    for i, entry in enumerate(entries):
        boxes[i, : len(entry["cls"])] = torch.from_numpy(entry["bbox"])
        labels[i, : len(entry["cls"])] = torch.from_numpy(entry["cls"])
    return {
        "bbox": boxes,
        "cls": labels,
        "img_scale": torch.ones(len(entries)),
        "img_size": torch.full((len(entries), 2), float(SIZE)),
    }


def _effdet_images(root):
    pixels = np.stack([np.asarray(Image.open(root / f"images/train/{i + 1}.png")) for i in range(len(OBJECTS))])
    normalized = (pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    return torch.from_numpy(normalized).permute(0, 3, 1, 2).float()


class SameOutputs(torch.nn.Module):
    """Our network's outputs in effdet's bench: of two networks, scores that almost tie could change places."""

    def __init__(self, scene):
        super().__init__()
        self.config, self.raw = scene.peer.config, _raw(scene)

    def forward(self, images):
        return _as_maps(self.raw, Anchors.from_config(self.config))


def _raw(scene):
    with torch.no_grad():
        return scene.ours(scene.batch.images)


def _order(boxes, scores):
    """Return the order by score; those that all but tie, of which rounding decides, are ordered by their place."""
    groups = torch.cat([torch.zeros(1), (scores.diff() < -1e-6).cumsum(0)])
    return torch.from_numpy(np.lexsort((boxes[:, 1].round(), boxes[:, 0].round(), groups)))


def _our_targets(boxes, labels, anchors):
    """Return class targets (-1 for background) and box targets (0 for background)."""
    matches = match_anchors(boxes, labels, anchors)
    rows = matches.clamp(min=0)
    positive = matches != IGNORE
    assigned = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    encoded = encode_boxes(assigned, anchors.expand_as(assigned))
    return torch.where(positive, labels.gather(1, rows), -1), torch.where(positive[..., None], encoded, 0.0)


def _effdet_targets(anchors, target, classes):
    labels, boxes, positives = AnchorLabeler(anchors, classes).batch_label_anchors(target["bbox"], target["cls"])
    batch = len(target["cls"])
    flat_boxes = torch.cat([level.reshape(batch, -1, 4) for level in boxes], 1)
    return torch.cat([level.reshape(batch, -1) for level in labels], 1), flat_boxes, positives


def test_class_and_box_targets_are_effdets(scene):
    anchors = Anchors.from_config(scene.peer.config)
    labels, boxes, _ = _effdet_targets(anchors, scene.target, scene.classes)
    own_labels, own_boxes = _our_targets(scene.batch.boxes, scene.batch.labels, _raw(scene).anchors)
    torch.testing.assert_close(own_labels, labels, rtol=0, atol=0)
    torch.testing.assert_close(own_boxes, boxes, rtol=0, atol=1e-6)


def test_losses_are_effdets(scene):
    with torch.no_grad():
        theirs = DetBenchTrain(scene.peer).eval()(scene.images, scene.target)
        ours = detection_loss(scene.ours(scene.batch.images), scene.batch.boxes, scene.batch.labels)
    torch.testing.assert_close(ours.total, theirs["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.classification, theirs["class_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.box, theirs["box_loss"], rtol=1e-5, atol=0)


def test_detections_are_effdets(scene):
    sizes = {"img_scale": scene.target["img_scale"], "img_size": scene.target["img_size"]}
    theirs = DetBenchPredict(SameOutputs(scene))(scene.images, sizes)
    ours = Postprocess(score_threshold=0.0)(_raw(scene), scene.batch.sizes.float())
    for own, rows in zip(ours, theirs, strict=True):
        assert len(own.scores) == 100
        own, rows = Detections(*(part[_order(own.boxes, own.scores)] for part in own)), rows[_order(rows, rows[:, 4])]
        torch.testing.assert_close(own.boxes, rows[:, :4], rtol=0, atol=1e-4)
        torch.testing.assert_close(own.scores, rows[:, 4], rtol=0, atol=1e-6)
        torch.testing.assert_close(own.labels + 1, rows[:, 5].long())


def test_a_score_threshold_cuts_effdets_detections_off_below_it(scene):
    theirs = DetBenchPredict(SameOutputs(scene))(scene.images)
    raw = _raw(scene)
    for i, rows in enumerate(theirs):
        cut = 30 + int((-rows[30:61, 4].diff()).argmax())  # where no rounding moves a score across
        own = Postprocess(score_threshold=float(rows[cut : cut + 2, 4].mean()))(raw)[i]
        above = rows[: cut + 1]
        torch.testing.assert_close(own.boxes, above[:, :4], rtol=0, atol=1e-4)
        torch.testing.assert_close(own.labels + 1, above[:, 5].long())


def test_soft_suppression_is_effdets(scene):
    scene = SimpleNamespace(**{**vars(scene), "batch": SimpleNamespace(images=scene.batch.images[:2])})
    bench = DetBenchPredict(SameOutputs(scene))
    bench.soft_nms = True
    theirs = bench(scene.images[:2])
    ours = Postprocess(score_threshold=0.001, nms="soft")(_raw(scene))
    for own, rows in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.boxes, rows[:, :4], rtol=0, atol=1e-4)
        torch.testing.assert_close(own.scores, rows[:, 4], rtol=0, atol=1e-5)
        torch.testing.assert_close(own.labels + 1, rows[:, 5].long())


ANCHORS = Anchors(3, 7, 3, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)], 4.0, (64, 96))


@st.composite
def objects(draw):
    """Boxes on whole and half pixels, so that ties abound, some of them twice."""
    corners = draw(nps.arrays(np.int64, (draw(st.integers(0, 20)), 4), elements=st.integers(0, 120)))
    x1, y1 = corners[:, 0] / 1.5, corners[:, 1] / 2.5
    boxes = np.stack([x1, y1, np.minimum(x1 + 1 + corners[:, 2] / 2, 96), np.minimum(y1 + 1 + corners[:, 3] / 2, 64)])
    boxes = boxes.T.astype(np.float32)
    return torch.from_numpy(np.concatenate([boxes, boxes[: draw(st.integers(0, 2))]]))


@given(objects(), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_any_objects_have_effdets_targets(boxes, padding):
    labels = torch.arange(len(boxes)) % 5
    padded = torch.cat([boxes, torch.zeros(padding, 4)])[None]
    padded_labels = torch.cat([labels, torch.full((padding,), IGNORE)])[None]
    target = {"bbox": swapped(boxes)[None], "cls": labels[None] + 1}
    own_labels, own_boxes = _our_targets_or_none(padded, padded_labels)
    their_labels, their_boxes, positives = _effdet_targets(ANCHORS, target, 5)
    assert torch.equal(own_labels, their_labels)
    assert int((own_labels >= 0).sum()) == int(positives.sum())
    torch.testing.assert_close(own_boxes, their_boxes, rtol=0, atol=1e-5)


def _our_targets_or_none(boxes, labels):
    anchors = swapped(ANCHORS.boxes)
    if boxes.shape[1] == 0:
        return torch.full((1, len(anchors)), -1), torch.zeros(1, len(anchors), 4)
    return _our_targets(boxes, labels, anchors)


@pytest.mark.parametrize("spread", [0.1, 1.0, 20.0])
def test_any_outputs_have_effdets_losses(spread, scene):
    raw = _raw(scene)
    raw = raw._replace(
        class_logits=torch.randn_like(raw.class_logits) * spread, box_deltas=torch.randn_like(raw.box_deltas) * spread
    )
    anchors = Anchors.from_config(scene.peer.config)
    targets = AnchorLabeler(anchors, scene.classes).batch_label_anchors(scene.target["bbox"], scene.target["cls"])
    total, classification, box = DetectionLoss(scene.peer.config)(*_as_maps(raw, anchors), *targets)
    ours = detection_loss(raw, scene.batch.boxes, scene.batch.labels)
    torch.testing.assert_close(ours.total, total, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.classification, classification, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.box, box, rtol=1e-5, atol=0)


def test_gradients_of_the_loss_are_effdets(scene):
    raw = _raw(scene)
    own = RawDetections(raw.class_logits.requires_grad_(), raw.box_deltas.requires_grad_(), raw.anchors)
    anchors = Anchors.from_config(scene.peer.config)
    targets = AnchorLabeler(anchors, scene.classes).batch_label_anchors(scene.target["bbox"], scene.target["cls"])
    inputs = (own.class_logits, own.box_deltas)
    theirs = torch.autograd.grad(DetectionLoss(scene.peer.config)(*_as_maps(own, anchors), *targets)[0], inputs)
    ours = torch.autograd.grad(detection_loss(own, scene.batch.boxes, scene.batch.labels).total, inputs)
    for own_gradient, gradient in zip(ours, theirs, strict=True):
        assert apart(own_gradient, gradient) < 1e-5


def _as_maps(raw, anchors):
    """Return the heads' outputs as effdet has them, [b c h w] of each level."""
    maps = ([], [])
    start = 0
    for height, width in anchors.feat_sizes[3:]:
        rows = slice(start, start + height * width * 9)
        start = rows.stop
        for levels, output in zip(maps, (raw.class_logits, raw.box_deltas), strict=True):
            levels.append(output[:, rows].reshape(len(output), height, width, -1).permute(0, 3, 1, 2))
    return maps
