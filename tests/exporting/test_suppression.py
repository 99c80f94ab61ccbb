"""The choice of detections in ONNX operators, against `Postprocess` on the same candidates."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from densenet_suite.detection.postprocess import Postprocess
from densenet_suite.detection.structures import Detections, RawDetections
from densenet_suite.exporting.onnx_file import OPSET, OnnxNetwork
from densenet_suite.exporting.suppression import with_suppression


def chosen(candidates: Tensor, logits: Tensor, postprocess: Postprocess) -> dict[str, Tensor]:
    """Return what the operators choose; they stand behind a network that only passes both on."""
    classes = logits.shape[2]
    both = torch.cat([candidates, logits], 2)
    split = helper.make_node("Split", ["images", "sizes"], ["candidates", "logits"], axis=2)
    graph = helper.make_graph(
        [split],
        "passes",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", "anchors", 4 + classes])],
        [
            helper.make_tensor_value_info("candidates", TensorProto.FLOAT, ["batch", "anchors", 4]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "anchors", classes]),
        ],
        [helper.make_tensor("sizes", TensorProto.INT64, [2], [4, classes])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    joined = with_suppression(model, postprocess)
    onnx.checker.check_model(joined, full_check=True)
    return OnnxNetwork(joined.SerializeToString())(both)


def wanted(candidates: Tensor, logits: Tensor, postprocess: Postprocess) -> list[Detections]:
    still = torch.zeros_like(candidates[:1])
    everywhere = torch.full((1, 2), 1e6)
    return [
        postprocess(RawDetections(of_image[None], still, boxes), everywhere)[0]
        for of_image, boxes in zip(logits, candidates, strict=True)
    ]


def assert_same(candidates: Tensor, logits: Tensor, postprocess: Postprocess) -> list[int]:
    """Compare all images, and return how many detections each has."""
    found = chosen(candidates, logits, postprocess)
    expected = wanted(candidates, logits, postprocess)
    for i, detections in enumerate(expected):
        count = int(found["counts"][i])
        assert count == len(detections.scores)
        torch.testing.assert_close(found["boxes"][i, :count], detections.boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(found["scores"][i, :count], detections.scores, rtol=0, atol=1e-6)
        assert torch.equal(found["labels"][i, :count], detections.labels)
        assert not found["boxes"][i, count:].any()
        assert not found["scores"][i, count:].any()
        assert (found["labels"][i, count:] == -1).all()
    return [len(detections.scores) for detections in expected]


def crowd(images: int, anchors: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return boxes in a small picture, so that many overlap, and logits."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, anchors, 2, generator=generator) * 100
    sides = torch.rand(images, anchors, 2, generator=generator) * 40 + 5
    boxes = torch.cat([corners, corners + sides], 2)
    return boxes, torch.randn(images, anchors, classes, generator=generator) * 2


@pytest.mark.parametrize("seed", range(5))
def test_crowds_are_thinned_alike(seed: int) -> None:
    counts = assert_same(*crowd(2, 600, 5, seed), Postprocess(score_threshold=0.3))
    assert counts == [100, 100]


def test_an_image_with_few_detections_has_empty_rows() -> None:
    boxes, logits = crowd(3, 50, 2)
    logits[1] -= 100.0
    counts = assert_same(boxes, logits, Postprocess(score_threshold=0.6))
    assert counts[1] == 0
    assert 0 < counts[0] < 100


@pytest.mark.parametrize("limit", [20, 50, 300])
def test_only_the_best_candidates_enter(limit: int) -> None:
    counts = assert_same(*crowd(2, 200, 4), Postprocess(score_threshold=0.01, max_candidates=limit, max_detections=80))
    assert max(counts) <= min(80, limit)


def test_equal_scores_come_in_the_order_of_anchors_and_classes() -> None:
    boxes, logits = crowd(2, 300, 4)
    counts = assert_same(boxes, logits.round(), Postprocess(score_threshold=0.3, max_candidates=100))
    assert min(counts) > 20


def test_boxes_of_which_the_border_left_nothing_are_dropped() -> None:
    boxes, logits = crowd(1, 50, 2)
    boxes[0, ::2, 2] = boxes[0, ::2, 0]
    logits[0, ::2] += 5.0
    (count,) = assert_same(boxes, logits, Postprocess(score_threshold=0.3))
    assert 0 < count <= 50


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.5, 1.0]]])
    logits = torch.tensor([[[3.0], [2.0], [1.0]]])
    assert assert_same(boxes, logits, Postprocess(score_threshold=0.3, max_detections=3)) == [2]


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_ends_of_the_threshold(threshold: float) -> None:
    (count,) = assert_same(*crowd(1, 30, 2), Postprocess(score_threshold=threshold, max_detections=20))
    assert (count > 0) == (threshold == 0.0)
