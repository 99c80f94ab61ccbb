"""Weights that effdet saves give its numbers here; D5 and larger, which take minutes, by tools/check_parity.py.

Networks are compared in float64. What is left are biases that reading folds into statistics of float32.
"""

from math import sqrt

import jaxtyping
import pytest
import torch
from effdet import EfficientDet
from effdet.anchors import decode_box_outputs
from effdet.config.model_config import efficientdet_model_param_dict
from effdet_peer import (
    effdet_anchors,
    effdet_config,
    effdet_model,
    effdet_outputs,
    effdet_resized,
    flat,
    saved,
    swapped,
)
from peers import apart

from densenet_suite import create_detector
from densenet_suite.detection.variants import DETECTORS

SIZES = ((128, 256), (384, 128))
SHARED = [name for name in DETECTORS if name in efficientdet_model_param_dict]
RUN = [
    *(f"efficientdet_d{i}" for i in range(5)),
    *(f"tf_efficientdet_d{i}" for i in range(5)),
    *(f"tf_efficientdet_d{i}_ap" for i in range(2)),
    *(f"tf_efficientdet_lite{i}" for i in ("0", "1", "2", "3", "3x", "4")),
    "efficientdetv2_dt",
    "efficientdetv2_ds",
]


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    # the checks take two thirds of the time of networks of hundreds of layers
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_every_detector_but_three_without_published_weights_has_a_peer():
    assert set(DETECTORS) - set(SHARED) == {"efficientdet_d6", "efficientdet_d7", "efficientdet_d7x"}


@pytest.mark.parametrize("name", RUN)
def test_logits_boxes_and_anchors_are_effdets(name, tmp_path):
    peer = effdet_model(name, SIZES[0])
    ours = create_detector(name, num_classes=90, weights=saved(peer.state_dict(), tmp_path)).double().eval()
    for size in SIZES:
        if size != SIZES[0]:
            peer = effdet_resized(peer, size)
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        logits, deltas = effdet_outputs(peer.double(), images)
        anchors = effdet_anchors(peer)
        with torch.no_grad():
            raw = ours.detect(images)
        assert logits.std() > 0.01  # the weights are alive
        assert deltas.std() > 0.01
        torch.testing.assert_close(raw.class_logits, logits, rtol=0, atol=1e-7)
        torch.testing.assert_close(raw.box_deltas, deltas, rtol=0, atol=1e-7)
        torch.testing.assert_close(raw.anchors, swapped(anchors), rtol=0, atol=0)
        boxes = decode_box_outputs(deltas[0], anchors, output_xyxy=True)
        usual = (deltas[0, :, 2:] < 4).all(1)  # beyond, effdet's exponential grows without bound and ours does not
        assert usual.float().mean() > 0.9
        assert apart(raw.boxes()[0][usual], boxes[usual]) < 1e-5


@pytest.mark.parametrize("name", ["efficientdet_d0", "tf_efficientdet_d0", "tf_efficientdet_lite0"])
def test_outputs_gradients_and_statistics_of_a_training_step_are_effdets(name, tmp_path):
    size = (128, 128)
    peer = effdet_model(name, size, 3, backbone_args={"drop_path_rate": 0.0})
    ours = create_detector(name, num_classes=3, weights=saved(peer.state_dict(), tmp_path), drop_path=0.0)
    peer, ours = peer.double(), ours.double()
    images = torch.randn(
        4, 3, *size, dtype=torch.float64
    )  # the coarsest map is 1x1: two values have no variance to speak of
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    raw, (classes, boxes) = ours.train().detect(inputs[0]), peer.train()(inputs[1])
    results = [(raw.class_logits, raw.box_deltas), (flat(classes, 3), flat(boxes, 4))]
    for logits, deltas in results:
        (logits.sin().sum() + deltas.sin().sum()).backward()
    for own, theirs in zip(*results, strict=True):
        assert apart(own.detach(), theirs.detach()) < 1e-7
    assert apart(inputs[0].grad, inputs[1].grad) < 1e-7
    with torch.no_grad():
        after = ours.eval().detect(images)
    logits, deltas = effdet_outputs(peer.eval(), images)
    assert apart(after.class_logits, logits) < 1e-7
    assert apart(after.box_deltas, deltas) < 1e-7


# in the others every tensor was filled, and AdvProp's weights are of the same networks
@pytest.mark.parametrize("name", [name for name in SHARED if name not in RUN and not name.endswith("_ap")])
def test_number_of_parameters_is_effdets(name):
    with torch.device("meta"):
        ours = create_detector(name, num_classes=90)
        # the biases that ours folds away
        peer = EfficientDet(effdet_config(name, (512, 512), redundant_bias=False), pretrained_backbone=False)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())


@pytest.mark.parametrize("name", SHARED)
def test_the_row_has_effdets_numbers(name):
    spec, config = DETECTORS[name], effdet_config(name, (512, 512))
    published = efficientdet_model_param_dict[name]
    pairs = [tuple(a) if not isinstance(a, float) else (sqrt(a), 1 / sqrt(a)) for a in config.aspect_ratios]
    assert (spec.size, spec.size) == published["image_size"]
    assert spec.drop_path == config.backbone_args.drop_path_rate
    assert spec.anchor_scale == config.anchor_scale
    assert torch.allclose(torch.tensor(spec.aspects), torch.tensor(pairs))
    assert (spec.min_level, spec.max_level) == (config.min_level, config.max_level)
    assert (spec.channels, spec.cells) == (config.fpn_channels, config.fpn_cell_repeats)
    assert (spec.repeats, spec.backbone.removeprefix("timm/")) == (config.box_class_repeats, config.backbone_name)
    assert (spec.fusion == "sum") == (config.fpn_name == "bifpn_sum")
    assert (spec.padding, spec.resample) == (config.pad_type or "symmetric", config.upsample_type)
    assert spec.act == config.act_type.replace("swish", "silu")
    assert (spec.statistics == "half") == (tuple(config.get("mean") or ()) == (0.5, 0.5, 0.5))
    assert spec.padding_value == config.get("fill_color")
    assert spec.url == (config.url or None)
