import subprocess
import sys

import pytest
import timm
from torch import nn

from densenet_suite import ConfigError, list_backbones, register_backbone
from densenet_suite.backbones.variants import CUSTOM, FAMILIES, PUBLISHED, check_backbone_name, efficientnet_spec


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(CUSTOM, "_entries", {})


def test_every_variant_has_a_tensorflow_twin():
    plain = [name for name in PUBLISHED if not name.startswith("tf_")]
    assert len(plain) == 29
    assert set(PUBLISHED) == {*plain, *(f"tf_{name}" for name in plain)}


def test_the_twin_differs_in_padding_epsilon_and_statistics_only():
    ours, twin = PUBLISHED["efficientnet_lite2"].to_dict(), PUBLISHED["tf_efficientnet_lite2"].to_dict()
    assert {key for key in ours if ours[key] != twin[key]} == {"padding", "bn_eps", "mean", "std"}


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.startswith("tf_")])
def test_pixel_statistics_are_those_of_the_weights_that_timm_ports(name):
    config = timm.get_pretrained_cfg(name)
    assert config.has_weights
    assert (PUBLISHED[name].mean, PUBLISHED[name].std) == (config.mean, config.std)


# Lite3 and Lite4 were trained at 280 and 300 and are evaluated by timm at 300 and 380; its L2 is the fine-tuned one
@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.startswith("tf_") and n[-5:] not in ("lite3", "lite4")])
def test_resolution_is_that_of_the_published_weights(name):
    name = name + ".ns_jft_in1k" if name.endswith("l2") else name
    assert PUBLISHED[name.partition(".")[0]].resolution == timm.get_pretrained_cfg(name).input_size[1]


def test_names_are_listed_by_pattern():
    assert list_backbones("efficientnet_lite*") == [f"efficientnet_lite{i}" for i in range(5)]


def test_timms_networks_are_listed_under_their_prefix():
    assert "timm/resnet18" in list_backbones("timm/resnet*")


def test_listing_and_checking_names_does_not_load_torch():
    code = (
        "import sys, densenet_suite as ds; ds.list_backbones('timm/*');"
        "from densenet_suite.backbones.variants import check_backbone_name as check; check('efficientnet(phi=-1)');"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scales_by_phi_and_by_width_and_depth(family):
    assert efficientnet_spec(f"{family}(phi=-1.5)") == FAMILIES[family].compound(-1.5)
    spec = efficientnet_spec(f"{family}( width = 0.5, depth=0.75 )")
    assert (spec.width, spec.depth, spec.resolution) == (0.5, 0.75, FAMILIES[family].resolution)


def test_a_scaled_name_may_state_its_resolution():
    assert efficientnet_spec("efficientnet(width=0.5, resolution=160)").resolution == 160


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18", "nonsense"])
def test_a_name_of_another_kind_has_no_table(name):
    assert efficientnet_spec(name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_b33", r"unknown backbone 'efficientnet_b33'\n  hint: did you mean efficientnet_b3 "),
        ("timm/resnet81", r"unknown backbone 'timm/resnet81'\n  hint: did you mean timm/resnet"),
        ("convnext_atto", r"unknown backbone 'convnext_atto'\n  hint: did you mean timm/convnext_atto\?"),
        ("zzzzzz", r"unknown backbone 'zzzzzz'\n  hint: densenet-suite models list shows the names"),
        ("efficientnets(phi=1)", r"unknown family 'efficientnets'(.|\n)*did you mean efficientnet "),
        ("zzz(phi=1)", r"unknown family 'zzz'(.|\n)*one of efficientnet, efficientnet_lite"),
        (
            "efficientnet()",
            r"cannot read ''(.|\n)*write efficientnet\(phi=-1\) or efficientnet\(width=0.5, depth=0.5\)",
        ),
        ("efficientnet(phi=big)", r"cannot read 'phi=big'"),
        ("efficientnet(hight=2)", r"cannot read 'hight=2'"),
        ("efficientnet(width=1, width=2)", r"cannot read 'width=2'"),
        ("efficientnet(phi=1, width=2)", r"takes either phi, or width and depth\n  hint: write"),
        ("efficientnet(phi=1, resolution=64)", r"takes either phi, or width and depth"),
        ("efficientnet(phi=200)", r"phi of backbone 'efficientnet\(phi=200\)' is not between -11 and 11"),
        ("efficientnet(phi=-99999)", r"phi of backbone .* is not between -11 and 11"),
        ("efficientnet(width=0)", r"width of backbone .* is not between 0.01 and 8"),
        ("efficientnet(depth=-1)", r"depth of backbone .* is not between 0.01 and 8"),
        ("efficientnet(resolution=0)", r"resolution of backbone .* is not between 8 and 8192"),
    ],
)
def test_a_wrong_name_is_refused_with_the_remedy(name, message):
    with pytest.raises(ConfigError, match=message):
        check_backbone_name(name)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet(phi=0.5)", "timm/resnet18", "timm/resnet18.a1_in1k"])
def test_a_right_name_is_accepted(name):
    check_backbone_name(name)


@pytest.mark.usefixtures("registry")
def test_a_registered_name_is_listed_and_accepted():
    register_backbone("mine")(nn.Identity)
    check_backbone_name("mine")
    assert "mine" in list_backbones("m*")


@pytest.mark.usefixtures("registry")
def test_a_name_is_registered_once():
    register_backbone("mine")(nn.Identity)
    with pytest.raises(ConfigError, match=r"backbone 'mine' is registered twice\n  hint: choose another name"):
        register_backbone("mine")(nn.Identity)
