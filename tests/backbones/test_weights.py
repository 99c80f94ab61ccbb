from functools import cache

import jaxtyping
import pytest
import torch
from backbone_peers import farthest, live_timm_features, saved
from peers import randomize
from safetensors.torch import save_file

from densenet_suite import ConfigError, create_backbone
from densenet_suite.backbones.keras_h5 import write_keras_h5
from densenet_suite.backbones.schemes import SCHEMES
from densenet_suite.backbones.weights import export_tensors, recognize
from densenet_suite.preprocess import default_bands

TINY = "efficientnet(width=0.25, depth=0.25)"
RGB = ("red", "green", "blue")
IMAGES = torch.randn(1, 3, 64, 65, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    # the checks go through every table of the family again and again
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@cache
def tiny():
    """Return a live network that tests read and don't change."""
    return randomize(create_backbone(TINY)).eval()


def written(scheme, tensors, folder):
    if scheme != "keras":
        return saved(tensors, folder)
    write_keras_h5(folder / "peer.h5", tensors)
    return folder / "peer.h5"


# each library has no others
FAMILIES = {
    "densenet_suite": [TINY, "tf_efficientnetv2(width=0.25, depth=0.25)"],
    "timm": [
        TINY,
        "tf_efficientnet_lite(width=0.25, depth=0.25)",
        "efficientnet_edge(width=0.25, depth=0.25)",
        "efficientnetv2(width=0.25, depth=0.25)",
        "efficientnet_cc_b0_4e",
    ],
    "torchvision": [TINY, "efficientnetv2(width=0.25, depth=0.25)"],
    "lukemelas": [TINY],
    "keras": [TINY, "efficientnetv2(width=0.25, depth=0.25)"],
}


@pytest.mark.parametrize(("scheme", "name"), [(scheme, name) for scheme, names in FAMILIES.items() for name in names])
def test_export_and_back_is_the_identity(scheme, name, tmp_path):
    first = randomize(create_backbone(name))
    path = written(scheme, export_tensors(first, scheme), tmp_path)
    second = create_backbone(name, weights=path)
    different = {
        key
        for key, tensor in first.state_dict().items()
        if not torch.equal(tensor, second.state_dict()[key]) and not key.endswith("num_batches_tracked")
    }
    assert different == set()


# a name of each scheme that a tiny network has
VICTIM = {
    "densenet_suite": "stages.1.0.project.conv.weight",
    "timm": "blocks.1.0.conv_pwl.weight",
    "torchvision": "features.2.0.block.3.0.weight",
    "lukemelas": "_blocks.1._project_conv.weight",
    "keras": "block2a_project_conv.weight",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_missing_tensor_is_refused_by_its_name(scheme, tmp_path):
    tensors = export_tensors(tiny(), scheme)
    del tensors[VICTIM[scheme]]
    with pytest.raises(ConfigError, match=rf"weights do not fit: {VICTIM[scheme]} is missing  \(.*peer"):
        create_backbone(TINY, weights=written(scheme, tensors, tmp_path))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_renamed_tensor_is_refused_by_both_names(scheme, tmp_path):
    tensors = export_tensors(tiny(), scheme)
    tensors[f"block_z.{VICTIM[scheme]}" if scheme != "keras" else "block_z.weight"] = tensors.pop(VICTIM[scheme])
    with pytest.raises(ConfigError, match=rf"{VICTIM[scheme]} is missing; block_z\.\S+ has no place in the network"):
        create_backbone(TINY, weights=written(scheme, tensors, tmp_path))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tensor_of_another_shape_is_refused_by_its_name(scheme, tmp_path):
    tensors = export_tensors(tiny(), scheme)
    outputs, inputs, *_ = tensors[VICTIM[scheme]].shape
    tensors[VICTIM[scheme]] = torch.zeros(outputs, inputs + 1, 1, 1)
    message = rf"{VICTIM[scheme]} is \[{outputs}, {inputs + 1}, 1, 1\], the network takes \[{outputs}, {inputs}, 1, 1\]"
    with pytest.raises(ConfigError, match=message):
        create_backbone(TINY, weights=written(scheme, tensors, tmp_path))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_batch_norm_statistics_must_be_there_too(scheme, statistic, tmp_path):
    tensors = export_tensors(tiny(), scheme)
    victim = next(name for name in tensors if name.endswith(statistic))
    del tensors[victim]
    with pytest.raises(ConfigError, match=rf"{victim} is missing"):
        create_backbone(TINY, weights=written(scheme, tensors, tmp_path))


def test_weights_of_another_variant_are_refused_with_its_name(tmp_path):
    path = saved(live_timm_features("efficientnet_b1").state_dict(), tmp_path)
    with pytest.raises(
        ConfigError, match=r"has no place(.|\n)*and \d+ more(.|\n)*hint: the file fits .*efficientnet_b1"
    ):
        create_backbone("efficientnet_b0", weights=path)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", ["efficientnetv2", "efficientnet_edge"])
def test_weights_of_another_family_are_refused(scheme, family, tmp_path):
    path = written(scheme, export_tensors(tiny(), scheme), tmp_path)
    with pytest.raises(ConfigError, match="weights do not fit"):
        create_backbone(f"{family}(width=0.25, depth=0.25)", weights=path)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = saved({"layer1.weight": torch.zeros(1)}, tmp_path)
    message = r"holds no EfficientNet that is known: .* like 'layer1.weight'(.|\n)*timm, torchvision, Keras"
    with pytest.raises(ConfigError, match=message):
        create_backbone(TINY, weights=path)


@pytest.mark.parametrize("prefix", ["module.", "model.", "encoder.", "module.model.backbone."])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tensors_are_found_under_any_prefix(prefix, scheme):
    tensors = {f"{prefix}{name}": tensor for name, tensor in export_tensors(tiny(), scheme).items()}
    source = recognize({**tensors, "decoder.weight": torch.zeros(1)}, "a file")
    assert source.scheme == scheme
    assert list(source.beside) == ["decoder.weight"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"state_dict": {}, "state_dict_ema": tensors},
        lambda tensors: {"model": {f"module.{name}": tensor for name, tensor in tensors.items()}},
    ],
)
def test_wrappers_of_training_scripts_are_taken_off(wrap, tmp_path):
    path = saved(wrap(export_tensors(tiny(), "timm")), tmp_path)
    assert farthest(create_backbone(TINY, weights=path).eval()(IMAGES), tiny()(IMAGES)) == 0


def test_safetensors_load(tmp_path):
    path = tmp_path / "peer.safetensors"
    save_file(export_tensors(tiny(), "timm"), path)
    assert farthest(create_backbone(TINY, weights=path).eval()(IMAGES), tiny()(IMAGES)) == 0


def test_loading_ends_in_a_report(tmp_path, caplog):
    tensors = {f"encoder.{name}": tensor for name, tensor in export_tensors(tiny(), "lukemelas").items()}
    path = saved({**tensors, "encoder._fc.weight": torch.zeros(2, 3), "decoder.weight": torch.zeros(1)}, tmp_path)
    with caplog.at_level("INFO"):
        create_backbone(TINY, 4, weights=path)
    assert f"weights from {path} (lukemelas / smp names): {len(tensors)} tensors loaded" in caplog.text
    assert "adapted: stem.conv.weight to 4 bands, padding symmetric to same and BN epsilon" in caplog.text
    assert "left out: _fc.weight, decoder.weight" in caplog.text


def test_what_counts_steps_may_be_missing(tmp_path, caplog):
    tensors = export_tensors(tiny(), "timm")
    path = saved({name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}, tmp_path)
    with caplog.at_level("INFO"):
        create_backbone(TINY, weights=path)
    assert "newly initialised: stem.norm.num_batches_tracked" in caplog.text


# bands


@pytest.fixture
def path(tmp_path):
    return saved(export_tensors(tiny(), "timm"), tmp_path)


@pytest.mark.parametrize("bands", [4, 13])
@torch.no_grad()
def test_new_bands_leave_the_answer_to_rgb_as_it_is(bands, path):
    ours = create_backbone(TINY, bands, weights=path).eval()
    images = torch.randn(1, bands, 64, 64)
    assert farthest(ours(images), tiny()(images[:, :3])) < 1e-5


@pytest.mark.parametrize("bands", [1, 2])
@torch.no_grad()
def test_a_grey_image_gives_what_its_three_equal_channels_give(bands, path):
    ours = create_backbone(TINY, bands, weights=path).eval()
    grey = torch.randn(1, 1, 64, 64)
    assert farthest(ours(grey.expand(-1, bands, -1, -1)), tiny()(grey.expand(-1, 3, -1, -1))) < 1e-5


@torch.no_grad()
def test_three_bands_are_rgb(path):
    ours = create_backbone(TINY, 3, weights=path).eval()
    images = torch.randn(1, 3, 64, 64)
    assert farthest(ours(images), tiny()(images)) < 1e-6


@pytest.mark.parametrize(
    ("bands", "place"),
    [
        (("blue", "green", "red"), (2, 1, 0)),
        (("new", "red", "green", "blue"), (1, 2, 3)),
        (("green", "new", "blue", "new", "red"), (4, 0, 2)),
    ],
)
@torch.no_grad()
def test_bands_are_taken_for_what_they_are_said_to_be(bands, place, path):
    ours = create_backbone(TINY, len(bands), weights=path, bands=bands).eval()
    images = torch.randn(1, len(bands), 64, 64)
    assert farthest(ours(images), tiny()(images[:, place])) < 1e-5


@torch.no_grad()
def test_a_band_without_a_colour_is_like_that_colour_black(path):
    ours = create_backbone(TINY, 3, weights=path, bands=("new", "red", "green")).eval()
    images = torch.randn(1, 3, 64, 64)
    black = torch.zeros(1, 1, 64, 64)
    assert farthest(ours(images), tiny()(torch.cat([images[:, 1:], black], 1))) < 1e-5


def test_the_bands_of_a_file_of_ours_are_its_own(tmp_path):
    bands = ("blue", "green", "red")
    second = create_backbone(TINY, weights=saved(tiny().state_dict(), tmp_path), bands=bands)
    assert torch.equal(tiny().stem.conv.weight, second.stem.conv.weight)


@pytest.mark.parametrize(
    ("in_channels", "bands"),
    [(1, ("grey",)), (2, ("grey", "grey")), (3, RGB), (4, (*RGB, "new")), (13, (*RGB, *("new",) * 10))],
)
def test_bands_that_are_not_said_are_grey_below_three_and_rgb_and_new_above(in_channels, bands):
    assert default_bands(in_channels) == bands


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (("red",), r"bands \('red',\) do not describe 4 input channels"),
        (("red", "green", "blue", "nir"), r"\n  hint: give each of them one of red, green, blue, grey, new"),
    ],
)
def test_wrong_bands_are_refused_with_and_without_weights(bands, message):
    with pytest.raises(ConfigError, match=message):
        create_backbone(TINY, 4, bands=bands)
