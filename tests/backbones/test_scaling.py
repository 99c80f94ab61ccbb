import json
from dataclasses import replace

import pytest

from densenet_suite.backbones.scaling import EfficientNetSpec
from densenet_suite.backbones.variants import PUBLISHED, efficientnet_spec

B0 = PUBLISHED["efficientnet_b0"]


@pytest.mark.parametrize("phi", [-1.5, 0.5, 2.0])
def test_the_compound_law_scales_depth_width_and_resolution_by_their_powers(phi):
    spec = B0.compound(phi)
    assert (spec.depth, spec.width) == pytest.approx((1.2**phi, 1.1**phi))
    assert spec.resolution == pytest.approx(224 * 1.15**phi, abs=4)
    assert spec.resolution % 8 == 0


def test_phi_zero_is_b0():
    assert B0.compound(0.0) == B0


# width and depth factors of B0..B7 as the paper's authors publish them, with the channels and repeats they give there
@pytest.mark.parametrize(
    ("name", "stem", "head", "channels", "repeats"),
    [
        ("efficientnet_b1", 32, 1280, (16, 24, 40, 80, 112, 192, 320), (2, 3, 3, 4, 4, 5, 2)),
        ("efficientnet_b4", 48, 1792, (24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2)),
        ("efficientnet_b7", 64, 2560, (32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4)),
        ("efficientnet_lite3", 32, 1280, (24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1)),
    ],
)
def test_published_factors_give_the_published_channels_and_repeats(name, stem, head, channels, repeats):
    spec = PUBLISHED[name]
    assert (spec.stem_channels, spec.head_channels) == (stem, head)
    assert tuple(stage[-1].out_channels for stage in spec.blocks()) == channels
    assert tuple(len(stage) for stage in spec.blocks()) == repeats


def test_channels_are_never_rounded_down_by_more_than_a_tenth():
    spec = EfficientNetSpec((), width=1.0)
    assert [spec.channels(c) for c in (4, 11, 12, 17, 18, 20)] == [8, 16, 16, 16, 24, 24]


def test_only_blocks_that_keep_size_and_channels_have_a_residual():
    assert [[block.residual for block in stage] for stage in B0.blocks()][:3] == [[False], [False, True], [False, True]]


def test_drop_path_grows_over_all_blocks_and_stays_below_its_rate():
    rates = [block.drop_path for stage in B0.blocks() for block in stage]
    assert rates == pytest.approx([0.2 * i / 16 for i in range(16)])


def test_squeeze_and_excitation_squeezes_the_input_of_the_block():
    assert [stage[0].squeezed for stage in B0.blocks()] == [8, 4, 6, 10, 20, 28, 48]


def test_the_first_stage_of_edge_networks_expands_24_channels_without_residual():
    block = PUBLISHED["efficientnet_es"].blocks()[0][0]
    assert (block.in_channels, block.middle, block.residual) == (32, 96, False)


def test_condconv_has_experts_in_the_last_three_stages():
    experts = [stage[0].experts for stage in PUBLISHED["efficientnet_cc_b0_8e"].blocks()]
    assert experts == [0, 0, 0, 0, 8, 8, 8]


@pytest.mark.parametrize("name", ["efficientnet_b3", "tf_efficientnet_cc_b0_4e", "efficientnet_es", "efficientnetv2_m"])
def test_a_spec_survives_json(name):
    spec = PUBLISHED[name]
    assert EfficientNetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_spec_without_taps_is_read_as_files_of_version_0_1_0_have_it():
    values = json.loads(json.dumps(B0.to_dict()))
    del values["tap_blocks"]
    assert EfficientNetSpec.from_dict(values) == B0


def test_maps_are_taken_behind_the_last_block_of_each_stride_unless_others_are_named():
    assert B0.block_taps() == (1, 3, 5, 11, 16)
    named = replace(B0, tap_blocks=(0, 3, 5, 9, 16))
    assert named.block_taps() == (0, 3, 5, 9, 16)
    assert EfficientNetSpec.from_dict(json.loads(json.dumps(named.to_dict()))) == named


@pytest.mark.parametrize(("phi", "smaller"), [(-1.5, True), (0.5, False)])
def test_a_negative_phi_is_smaller_than_b0_and_a_positive_one_larger(phi, smaller):
    def size(spec):
        return sum(block.out_channels for stage in spec.blocks() for block in stage)

    assert (size(efficientnet_spec(f"efficientnet(phi={phi})")) < size(B0)) is smaller
