import argparse
import logging
from dataclasses import replace

import jaxtyping
import pytest
import timm
import torch
from effdet_peer import effdet_model, effdet_outputs, saved
from peers import apart, randomize
from safetensors.torch import save_file

from densenet_suite import ConfigError, create_detector
from densenet_suite.backbones.base import Backbone, Level
from densenet_suite.detection.build import save_detector
from densenet_suite.detection.checkpoints import load_detector, open_detector
from densenet_suite.detection.coco import COCO_IDS
from densenet_suite.detection.model import EfficientDet
from densenet_suite.detection.structures import ClassTable
from densenet_suite.detection.variants import detector_spec
from densenet_suite.preprocess import Normalization, Preprocess

SIZE = (128, 128)
SMALL = {"fpn_channels": 16, "fpn_cell_repeats": 1, "box_class_repeats": 2}
SPEC = detector_spec("tf_efficientdet_d0").with_numbers(channels=16, cells=1, repeats=2)
CLASS_WEIGHT = "class_net.predict.conv_pw.weight"


@pytest.fixture(scope="module", autouse=True)
def _shapes_are_checked_elsewhere():
    # a refusal compares a file with every published table, which takes half a minute with every call checked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


@pytest.fixture(scope="module")
def peer():
    """effdet's network with TensorFlow's redundant biases and the 90 rows of COCO."""
    return effdet_model("tf_efficientdet_d0", SIZE, 90, **SMALL)


@pytest.fixture(scope="module")
def images():
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(peer, images):
    return effdet_outputs(peer, images)


@pytest.fixture(scope="module")
def file(peer, tmp_path_factory):
    return saved(peer.state_dict(), tmp_path_factory.mktemp("peer"))


@pytest.fixture(scope="module")
def network():
    return create_detector(SPEC, num_classes=90)


@pytest.fixture
def blank(network):
    """Our network with other weights than any file."""
    return randomize(network, seed=9)


def outputs(model, images):
    with torch.no_grad():
        raw = model.eval().detect(images)
    return raw.class_logits, raw.box_deltas


def assert_same(ours, theirs):
    for own, other in zip(ours, theirs, strict=True):
        assert apart(own, other) < 1e-5


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "a state dict": lambda state: state,
    "a training checkpoint": lambda state: {
        "epoch": 3,
        "arch": "tf_efficientdet_d0",
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        "state_dict_ema": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(model="tf_efficientdet_d0", lr=0.1),
    },
    "a bench": lambda state: {**prefixed(state, "model."), "anchors.boxes": torch.zeros(3069, 4)},
    "DDP": lambda state: prefixed(state, "module."),
    "DDP around a bench": lambda state: {
        "state_dict": {**prefixed(state, "module.model."), "module.anchors.boxes": torch.zeros(3069, 4)}
    },
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_effdet_checkpoints_load_in_whatever_they_are_wrapped(wrap, peer, blank, images, expected, tmp_path):
    load_detector(blank, open_detector(saved(wrap(peer.state_dict()), tmp_path)))
    assert_same(outputs(blank, images), expected)


def test_effdet_checkpoints_load_from_safetensors(peer, blank, images, expected, tmp_path):
    save_file(dict(peer.state_dict()), tmp_path / "peer.safetensors")
    load_detector(blank, open_detector(tmp_path / "peer.safetensors"))
    assert_same(outputs(blank, images), expected)


@pytest.mark.parametrize("level_first", [False, True], ids=["repeat first", "level first"])
@pytest.mark.parametrize("redundant", [False, True], ids=["no redundant bias", "redundant bias"])
def test_both_layouts_of_norms_and_redundant_biases_give_the_same_function(level_first, redundant, images, tmp_path):
    peer = effdet_model(
        "tf_efficientdet_d0", SIZE, 5, **SMALL, head_bn_level_first=level_first, redundant_bias=redundant
    )
    assert any("bn_rep.0.0.bn." in name for name in peer.state_dict()) != level_first
    assert ("fpn.resample.3.conv.conv.bias" in peer.state_dict()) == redundant
    ours = create_detector(SPEC, 5, weights=saved(peer.state_dict(), tmp_path))
    assert_same(outputs(ours, images), effdet_outputs(peer, images))


def test_redundant_biases_leave_no_parameter_behind(blank):
    assert [name for name, _ in blank.named_parameters() if name.endswith("conv.bias")] == []


def test_the_90_rows_are_taken_as_they_are(file, images, expected):
    assert_same(outputs(create_detector(SPEC, 90, weights=file), images), expected)


def test_the_90_rows_become_the_80_classes_by_their_ids(file, images, expected):
    logits, deltas = outputs(create_detector(SPEC, weights=file), images)
    assert_same((logits, deltas), (expected[0][..., [i - 1 for i in COCO_IDS]], expected[1]))


def test_the_90_rows_become_a_users_classes_by_name(file, images, expected, caplog):
    with caplog.at_level(logging.INFO):
        model = create_detector(SPEC, classes=["widget", "dog", "person"], weights=file)
    logits, deltas = outputs(model, images)
    assert_same((logits[..., 1:], deltas), (expected[0][..., [17, 0]], expected[1]))  # ids 18 and 1
    assert "2 of 3 classes by name" in caplog.text
    assert "newly initialised: class 'widget'" in caplog.text
    assert apart(logits[..., 0], expected[0][..., 0]) > 0.01


def test_a_class_that_the_file_lacks_starts_from_the_prior(file, blank):
    model = create_detector(SPEC, classes=["person", "widget"], weights=file)
    bias = model.class_head.predict.pointwise.bias.unflatten(0, (9, 2))
    torch.testing.assert_close(bias[:, 1].sigmoid(), torch.full((9,), 0.01))


def test_as_many_classes_without_names_are_taken_in_their_order(images, tmp_path):
    peer = effdet_model("tf_efficientdet_d0", SIZE, 3, **SMALL)
    model = create_detector(SPEC, classes=["cat", "dog", "cow"])
    report = load_detector(model, open_detector(saved(peer.state_dict(), tmp_path)))
    assert report.adapted == ["3 classes in the file's order, which it does not name"]
    assert_same(outputs(model, images), effdet_outputs(peer, images))


def test_another_number_of_classes_without_names_leaves_only_the_last_layer_out(images, tmp_path):
    peer = effdet_model("tf_efficientdet_d0", SIZE, 3, **SMALL)
    model = create_detector(SPEC, 4)
    report = load_detector(model, open_detector(saved(peer.state_dict(), tmp_path)))
    last = "class_head.predict.pointwise"
    assert report.left_out == [f"{last} for 3 classes without names"]
    assert report.initialized == [f"{last}.weight", f"{last}.bias"]
    assert_same(outputs(model, images)[1:], effdet_outputs(peer, images)[1:])


def test_the_report_counts_what_was_loaded_and_names_what_was_not(peer, blank, tmp_path):
    state = {**prefixed(peer.state_dict(), "model."), "anchors.boxes": torch.zeros(3069, 4)}
    report = load_detector(blank, open_detector(saved(state, tmp_path)))
    assert report.loaded == len(blank.state_dict())
    assert report.left_out == ["anchors.boxes"]
    assert report.initialized == []
    assert str(tmp_path / "peer.pth") in str(report)


def test_no_tensor_of_the_neck_and_the_heads_can_be_missing(file, blank):
    source = open_detector(file)
    unnoticed = []
    for name in source.tensors:
        if name.startswith("backbone.") or name.endswith("num_batches_tracked"):
            continue
        rest = {other: tensor for other, tensor in source.tensors.items() if other != name}
        try:
            load_detector(blank, replace(source, tensors=rest))
        except ConfigError as error:
            if name in str(error):
                continue
        unnoticed.append(name)
    assert unnoticed == []


@pytest.mark.parametrize("name", ["backbone.conv_stem.weight", "backbone.blocks.1.0.bn1.running_var", CLASS_WEIGHT])
def test_a_file_that_lacks_a_tensor_is_refused(name, peer, tmp_path):
    state = {other: tensor for other, tensor in peer.state_dict().items() if other != name}
    with pytest.raises(ConfigError, match=f"{name.removeprefix('backbone.')} is missing"):
        create_detector(SPEC, 90, weights=saved(state, tmp_path))


@pytest.mark.parametrize(
    "name", ["backbone.bn1.weight", "fpn.cell.0.fnode.3.combine.edge_weights", "box_net.predict.conv_pw.bias"]
)
def test_a_file_with_a_renamed_tensor_is_refused(name, peer, tmp_path):
    state = {f"{other}_" if other == name else other: tensor for other, tensor in peer.state_dict().items()}
    with pytest.raises(ConfigError, match=f"{name.removeprefix('backbone.')} is missing; .*_ has no place"):
        create_detector(SPEC, 90, weights=saved(state, tmp_path))


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("backbone.conv_stem.weight", [32, 3, 5, 5], r"\[32, 3, 3, 3\]"),
        ("fpn.cell.0.fnode.0.combine.edge_weights", [3], r"\[2\]"),
        ("box_net.predict.conv_pw.bias", [24], r"\[36\]"),
        (CLASS_WEIGHT, [810, 24, 1, 1], r"\[810, 16, 1, 1\]"),
        ("class_net.predict.conv_pw.bias", [811], r"\[810\]"),
    ],
)
def test_a_file_with_a_tensor_of_another_shape_is_refused(name, shape, wanted, peer, tmp_path):
    state = {**peer.state_dict(), name: torch.zeros(shape)}
    with pytest.raises(ConfigError, match=rf"{name.removeprefix('backbone.')} is .*, the network takes {wanted}"):
        create_detector(SPEC, 90, weights=saved(state, tmp_path))


def test_a_detector_of_another_size_is_refused_with_the_size_of_the_file(file):
    with pytest.raises(ConfigError, match=r"and .* more(.|\n)*16 channels, 1 BiFPN cells and 2 head repeats"):
        create_detector(SPEC.with_numbers(channels=24, cells=2, repeats=3), weights=file)


def test_a_detector_on_another_backbone_is_refused(file):
    with pytest.raises(ConfigError, match=r"the file fits .*tf_efficientnet_b0"):
        create_detector(SPEC, backbone="efficientnet_b1", weights=file)


def test_weights_of_a_backbone_leave_neck_and_heads_fresh(images, tmp_path):
    network = randomize(timm.create_model("tf_efficientnet_b0", features_only=True, out_indices=(2, 3, 4))).eval()
    whole = timm.create_model("tf_efficientnet_b0")
    whole.load_state_dict(network.state_dict(), strict=False)
    model = create_detector(SPEC, 3, weights=saved(whole.state_dict(), tmp_path)).eval()
    with torch.no_grad():
        pairs = zip(model.backbone(images)[-3:], network(images), strict=True)
    assert max(apart(own, theirs) for own, theirs in pairs) < 1e-5
    torch.testing.assert_close(model.class_head.predict.pointwise.bias.sigmoid(), torch.full((27,), 0.01))


def test_the_pixel_statistics_are_those_of_the_weights(file, tmp_path):
    half = replace(SPEC, statistics="half")
    backbone = saved(timm.create_model("tf_efficientnet_b0").state_dict(), tmp_path)
    assert create_detector(half, weights=file).preprocess.normalization.mean == (0.5, 0.5, 0.5)
    assert create_detector(half, weights=backbone).preprocess.normalization.mean == (0.485, 0.456, 0.406)


def test_a_first_convolution_of_other_bands_is_adapted(file, images, expected):
    model = create_detector(SPEC, 90, in_channels=4, weights=file)
    assert_same(outputs(model, torch.cat([images, torch.randn(1, 1, *SIZE)], 1)), expected)


def test_our_own_training_checkpoints_load(blank, images, tmp_path):
    theirs = outputs(blank, images)
    path = saved({"state_dict": prefixed(blank.state_dict(), "model."), "epoch": 2}, tmp_path)
    load_detector(randomize(blank, seed=3), open_detector(path))
    assert_same(outputs(blank, images), theirs)


def test_our_own_model_files_give_their_rows_by_name(images, tmp_path):
    ours = randomize(create_detector(SPEC, classes=["cat", "dog", "cow"]))
    save_detector(tmp_path / "ours.safetensors", ours, SIZE)
    logits, deltas = outputs(ours, images)
    other = create_detector(SPEC, classes=["cow", "bee", "cat"], weights=tmp_path / "ours.safetensors")
    assert_same((outputs(other, images)[0][..., [0, 2]], deltas), (logits[..., [2, 0]], deltas))


def test_our_own_file_that_lacks_a_tensor_is_refused(blank, tmp_path):
    state = dict(blank.state_dict())
    del state["box_head.predict.pointwise.bias"]
    with pytest.raises(ConfigError, match=r"box_head\.predict\.pointwise\.bias is missing"):
        create_detector(SPEC, 90, weights=saved(state, tmp_path))


class Registered(Backbone):
    """A backbone of a user's."""

    def __init__(self):
        levels = tuple(Level(2**i, 4, None, None) for i in range(1, 6))
        super().__init__(levels, 3, Normalization.imagenet())
        self.conv = torch.nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return [self.conv(images)]


def test_a_file_that_does_not_fit_a_users_backbone_is_refused(file):
    model = EfficientDet(SPEC, Registered(), Preprocess(Normalization.imagenet()), ClassTable.numbered(["a"]))
    with pytest.raises(ConfigError, match=r"do not fit the backbone.*conv\.weight"):
        load_detector(model, open_detector(file))


def test_a_keras_file_holds_no_detector(tmp_path):
    assert open_detector(tmp_path / "weights.h5") is None
