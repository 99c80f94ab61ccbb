"""Which files fill a segmenter, and what is said of the others; that the numbers are smp's is held in parity/."""

import logging

import jaxtyping
import pytest
import segmentation_models_pytorch as smp
import torch
from peers import apart, randomize
from safetensors.torch import save_file
from segmenters import TINY_BACKBONE

from densenet_suite import ConfigError, create_segmenter
from densenet_suite.backbones.base import Backbone
from densenet_suite.backbones.build import create_backbone
from densenet_suite.backbones.variants import PUBLISHED
from densenet_suite.segmentation.build import save_segmenter
from densenet_suite.segmentation.checkpoints import SegmenterFile, load_segmenter, open_segmenter, spec_of_file

SMALL = (16, 16, 8, 8, 8)
LOGGER = "densenet_suite.segmentation.build"


@pytest.fixture(scope="module", autouse=True)
def _shapes_are_checked_elsewhere():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield


def create(classes, **options):
    return create_segmenter(classes=classes, **{"backbone": TINY_BACKBONE, "channels": SMALL, **options})


def outputs(model, bands=3):
    images = torch.arange(bands * 64 * 96).remainder(251).to(torch.uint8).reshape(1, bands, 64, 96)
    with torch.no_grad():
        return model.eval()(images)


@pytest.fixture(scope="module")
def peer():
    return randomize(smp.Unet("tu-resnet10t", encoder_weights=None, decoder_channels=SMALL, classes=3)).eval()


@pytest.fixture
def state(peer):
    return dict(peer.state_dict())


def from_smp(state, folder, classes="abc", **options):
    torch.save(state, folder / "smp.pth")
    given = {"backbone": "timm/resnet10t", "weights": folder / "smp.pth", **options}
    return create(list(classes), **given)


@pytest.fixture
def own(tmp_path):
    """A trained segmenter and its model file."""
    model = randomize(create(["sky", "road", "car"]))
    save_segmenter(tmp_path / "model.safetensors", model, (64, 96))
    return model, tmp_path / "model.safetensors"


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {f"model.{n}": t for n, t in s.items()}])
def test_wrappers_around_the_state_dict_are_taken_off(wrap, peer, state, tmp_path):
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert apart(from_smp(wrap(state), tmp_path).eval().segment(images), peer(images)) < 1e-5


def test_safetensors_are_read(peer, state, tmp_path):
    save_file(state, tmp_path / "smp.safetensors")
    model = create(list("abc"), backbone="timm/resnet10t", weights=tmp_path / "smp.safetensors")
    torch.testing.assert_close(model.head.finest.weight, peer.segmentation_head[0].weight)


def test_rgb_weights_serve_more_bands_and_give_the_same_where_the_new_ones_are_zero(state, tmp_path):
    rgb, more = from_smp(state, tmp_path), from_smp(state, tmp_path, in_channels=5)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = rgb.eval().segment(images)
        found = more.eval().segment(torch.cat((images, torch.zeros(1, 2, 64, 96)), 1))
    torch.testing.assert_close(found, expected)


def test_unnamed_classes_are_taken_in_their_order_and_this_is_said(state, tmp_path, caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        from_smp(state, tmp_path)
    assert "3 classes in the file's order, which it does not name" in caplog.text


def test_another_number_of_unnamed_classes_leaves_the_head_to_chance_and_this_is_said(state, tmp_path, caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        model = from_smp(state, tmp_path, classes="abcd")
    assert outputs(model).shape == (1, 4, 64, 96)
    assert "left out: the head, for 3 classes without names" in caplog.text
    assert "newly initialised: head.finest.weight, head.finest.bias" in caplog.text


def test_heads_of_deep_supervision_are_new_where_the_file_has_none(state, tmp_path, caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        from_smp(state, tmp_path, deep_supervision=True)
    assert "newly initialised: head.coarser.0.weight" in caplog.text


def test_heads_of_deep_supervision_are_left_out_where_the_model_has_none(tmp_path, caplog):
    model = randomize(create(["a", "b"], deep_supervision=True))
    save_segmenter(tmp_path / "model.safetensors", model, (64, 96))
    with caplog.at_level(logging.INFO, LOGGER):
        again = create(["a", "b"], weights=tmp_path / "model.safetensors")
    torch.testing.assert_close(outputs(again), outputs(model))
    assert "left out: head.coarser.0.bias, head.coarser.0.weight" in caplog.text


def test_a_missing_tensor_is_named(state, tmp_path):
    del state["decoder.blocks.2.conv2.1.running_var"]
    with pytest.raises(ConfigError, match=r"decoder\.blocks\.2\.conv2\.1\.running_var is missing"):
        from_smp(state, tmp_path)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_half_a_head_is_refused(part, state, tmp_path):
    del state[f"segmentation_head.0.{part}"]
    with pytest.raises(ConfigError, match=rf"segmentation_head\.0\.{part} is missing"):
        from_smp(state, tmp_path)


def test_a_tensor_of_another_shape_is_named_with_both(state, tmp_path):
    with pytest.raises(
        ConfigError, match=r"decoder\.blocks\.0\.conv1\.0\.weight is \[16, 768, 3, 3\], the network takes"
    ):
        from_smp(state, tmp_path, channels=(32, 16, 8, 8, 8))


def test_a_tensor_without_a_place_is_named(state, tmp_path):
    state["decoder.center.0.weight"] = torch.zeros(1)
    with pytest.raises(ConfigError, match=r"decoder\.center\.0\.weight has no place in the network"):
        from_smp(state, tmp_path)


def test_many_faults_are_counted(state, tmp_path):
    faulty = {name: tensor for name, tensor in state.items() if "decoder.blocks.0" not in name}
    with pytest.raises(ConfigError, match=r"and \d+ more(.|\n)*the model is a unet with channels \[16, 16, 8, 8, 8\]"):
        from_smp(faulty, tmp_path)


def test_a_larger_encoder_is_refused(state, tmp_path):
    state["encoder.model.layer4.1.conv1.weight"] = torch.zeros(1)
    with pytest.raises(ConfigError, match=r"encoder\.model\.layer4\.1\.conv1\.weight has no place(.|\n)*larger than"):
        from_smp(state, tmp_path)


def test_the_encoder_of_another_network_is_refused(state, tmp_path):
    with pytest.raises(ConfigError, match="holds no EfficientNet that is known"):
        from_smp(state, tmp_path, backbone="efficientnet_b0")


def test_a_head_without_an_encoder_is_refused(state, tmp_path):
    headed = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}
    with pytest.raises(ConfigError, match="holds a segmentation head and no encoder"):
        from_smp(headed, tmp_path, backbone=TINY_BACKBONE)


def test_decoders_that_enlarge_their_logits_otherwise_are_refused(tmp_path):
    peer = smp.FPN("tu-resnet10t", encoder_weights=None, classes=3)
    with pytest.raises(
        ConfigError, match=r"not read for decoder fpn(.|\n)*read for unet, unetplusplus, manet and linknet"
    ):
        from_smp(peer.state_dict(), tmp_path, decoder="fpn", channels=None)


def test_what_smp_has_and_does_not_use_is_left_out(tmp_path, caplog):
    auxiliary = {"classes": 2, "dropout": None}
    options = {"encoder_weights": None, "classes": 3, "aux_params": auxiliary}
    peer = smp.Unet("tu-resnet10t", decoder_attention_type="scse", **options)
    torch.save(peer.state_dict(), tmp_path / "smp.pth")
    file = open_segmenter(tmp_path / "smp.pth")
    report = load_segmenter(create(list("abc"), backbone="timm/resnet10t", channels=None, attention="scse"), file)
    gates = {"cSE.1.weight", "cSE.1.bias", "cSE.3.weight", "cSE.3.bias", "sSE.0.weight", "sSE.0.bias"}
    assert set(report.left_out) == {
        "classification_head.3.weight",
        "classification_head.3.bias",
        *(f"decoder.blocks.4.attention1.attention.{name}" for name in gates),
    }


def native(name):
    """A file as smp's own encoders make it, as far as its kind can be told by it."""
    tensors = {"encoder._conv_stem.weight": torch.zeros(1), "segmentation_head.0.weight": torch.zeros(1)}
    return spec_of_file(PUBLISHED[name], SegmenterFile("x", "smp", tensors, []))


@pytest.mark.parametrize("name", [f"efficientnet_b{i}" for i in range(8)])
def test_the_taps_of_smps_own_encoders_are_its(name):
    expected = smp.encoders.encoders[name.replace("_", "-")]["params"]["out_indexes"]
    assert native(name).tap_blocks == (0, *(index + 1 for index in expected))
    assert (native(name).padding, native(name).bn_eps) == ("same", 1e-3)


def test_padding_of_smps_own_encoders_is_reported(tmp_path, caplog):
    peer = smp.Unet("efficientnet-b0", encoder_weights=None, decoder_channels=SMALL, classes=2)
    torch.save(peer.state_dict(), tmp_path / "smp.pth")
    with caplog.at_level(logging.INFO, LOGGER):
        model = create(["a", "b"], backbone="efficientnet_b0", weights=tmp_path / "smp.pth")
    assert "padding to the size of each image" in caplog.text
    save_segmenter(tmp_path / "model.safetensors", model, (64, 96))
    again = create(["a", "b"], backbone="efficientnet_b0", weights=tmp_path / "model.safetensors")
    assert again.backbone.levels == model.backbone.levels  # its taps are in the file
    torch.testing.assert_close(outputs(again), outputs(model))


def test_a_file_with_a_deeper_backbone_is_refused(tmp_path):
    deeper = create(["a", "b"], backbone="efficientnet(width=0.25, depth=1)")
    save_segmenter(tmp_path / "model.safetensors", deeper, (64, 96))
    with pytest.raises(ConfigError, match=r"stages\.\d\.1\.\S+ has no place in the network"):
        create(["a", "b"], weights=tmp_path / "model.safetensors")


def test_a_segmenter_of_ours_starts_another(own):
    model, path = own
    again = create(None, weights=path)
    assert again.classes == model.classes
    torch.testing.assert_close(outputs(again), outputs(model))


def test_a_run_folder_stands_for_its_best_weights(own, tmp_path):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    own[1].rename(tmp_path / "run" / "weights" / "best.safetensors")
    torch.testing.assert_close(outputs(create(None, weights=tmp_path / "run")), outputs(own[0]))


def test_rows_follow_the_names_of_the_classes(own, caplog):
    model, path = own
    with caplog.at_level(logging.INFO, LOGGER):
        again = create(["car", "tree", "sky"], weights=path)
    found, before = outputs(again), outputs(model)
    torch.testing.assert_close(found[:, [0, 2]], before[:, [2, 0]])
    assert "2 of 3 classes by name" in caplog.text
    assert "newly initialised: class 'tree'" in caplog.text


def test_a_backbone_file_fills_the_backbone_alone(tmp_path):
    backbone = randomize(create_backbone(TINY_BACKBONE))
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    model = create(["a", "b"], weights=tmp_path / "backbone.pth")
    torch.testing.assert_close(model.backbone.state_dict(), backbone.state_dict())
    assert open_segmenter(tmp_path / "backbone.pth") is None


def test_a_backbone_of_ones_own_that_does_not_fit_is_refused(own):
    class Other(Backbone):
        def forward(self, images):
            return []

    model, path = own
    other = Other(model.backbone.levels, 3, model.backbone.normalization)
    model.backbone = other
    with pytest.raises(ConfigError, match="weights do not fit the backbone"):
        load_segmenter(model, open_segmenter(path))
