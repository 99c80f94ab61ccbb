import jaxtyping
import pytest
import timm
import torch
from backbone_peers import farthest
from peers import randomize
from torchvision.models import WeightsEnum

from densenet_suite import ConfigError, create_backbone
from densenet_suite.backbones.published import fetch_imagenet

create_model = timm.create_model


@pytest.fixture(autouse=True)
def _shapes_are_checked_elsewhere(monkeypatch):
    # the checks go through every table of the family again and again
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def hub(monkeypatch):
    """Stand in for timm's hub: a network with live weights for each name that is asked for."""
    given = {}

    def fetched(name, pretrained=False, **arguments):
        model = create_model(name, **arguments)
        if pretrained:
            given[name] = randomize(model).eval()
        return model

    monkeypatch.setattr(timm, "create_model", fetched)
    return given


@torch.no_grad()
def test_imagenet_loads_what_timm_publishes_under_the_name(hub, caplog):
    with caplog.at_level("INFO"):
        ours = create_backbone("tf_efficientnet_b0", weights="imagenet").eval()
    images = torch.randn(1, 3, 64, 64)
    peer = hub["tf_efficientnet_b0"]
    assert farthest(ours(images), peer.forward_intermediates(images, intermediates_only=True)) < 1e-6
    assert "weights from timm/tf_efficientnet_b0.ns_jft_in1k (timm names)" in caplog.text


@torch.no_grad()
def test_imagenet_loads_a_timm_network_by_its_tag(hub, caplog):
    with caplog.at_level("INFO"):
        ours = create_backbone("timm/resnet18.tv_in1k", weights="imagenet").eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(images)[-1], hub["resnet18.tv_in1k"].forward_features(images))
    assert "weights from timm/resnet18.tv_in1k" in caplog.text


# timm's efficientnet_b1 was trained on pixels scaled to -1..1, the architecture's usual statistics are ImageNet's
@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "weights", "mean"),
    [
        ("efficientnet_b1", "imagenet", (0.5, 0.5, 0.5)),
        ("efficientnet_b1", None, (0.485, 0.456, 0.406)),
        ("timm/test_efficientnet", "imagenet", (0.485, 0.456, 0.406)),
        ("timm/efficientnet_b1", "imagenet", (0.5, 0.5, 0.5)),
    ],
)
def test_normalisation_travels_with_the_weights(name, weights, mean):
    assert create_backbone(name, weights=weights).normalization.mean == mean


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["efficientnet_b0", "timm/test_efficientnet"])
@pytest.mark.parametrize(
    ("bands", "in_channels", "mean"),
    [
        (None, 4, (0.485, 0.456, 0.406, 0.449)),
        (None, 1, (0.449,)),
        (("new", "blue", "green", "red"), 4, (0.449, 0.406, 0.456, 0.485)),
    ],
)
def test_each_band_is_normalised_as_the_colour_it_is_taken_for(name, bands, in_channels, mean):
    backbone = create_backbone(name, in_channels, weights="imagenet", bands=bands)
    assert backbone.normalization.mean == pytest.approx(mean)


@pytest.mark.parametrize(
    ("name", "mean"),
    [("efficientnet_b6", (0.485, 0.456, 0.406)), ("efficientnetv2_l", (0.5, 0.5, 0.5))],
)
def test_where_timm_has_none_torchvision_is_asked(name, mean, monkeypatch):
    asked = []
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda entry, **_: asked.append(str(entry)) or {})
    _, where, normalization = fetch_imagenet(name)
    assert where == f"torchvision {asked[0]}"
    assert asked[0].casefold().startswith(name.replace("netv2", "net_v2"))
    assert normalization.mean == mean


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b6", "timm/resnet18"])
@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("no route")])
def test_without_network_the_message_names_the_remedy(name, error, monkeypatch):
    def unreachable(*_, **named):
        if named.get("pretrained", True):
            raise error
        return create_model(*_, **named)

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", unreachable)
    message = (
        rf"cannot fetch the ImageNet weights of {name.removeprefix('timm/')}: no route\n"
        r"  hint: where there is no network, download the file elsewhere and give its path as weights"
    )
    with pytest.raises(ConfigError, match=message):
        create_backbone(name, weights="imagenet")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("efficientnet_lite1", "they are for tf_efficientnet_lite1"),
        ("efficientnetv2_b0", "they are for tf_efficientnetv2_b0"),
        ("efficientnet(phi=-1)", r"train from scratch \(weights: null\), or give a path"),
        ("timm/ghostnet_050", "train from scratch"),
    ],
)
def test_a_name_without_weights_says_where_there_are_some(name, hint):
    with pytest.raises(ConfigError, match=rf"no ImageNet weights are published for .*\n  hint: {hint}"):
        create_backbone(name, weights="imagenet")
