import time
import warnings
from dataclasses import replace
from functools import cache

import jaxtyping
import pytest
import torch
from peers import apart, randomize

from densenet_suite import create_backbone
from densenet_suite.backbones.base import check_levels
from densenet_suite.backbones.efficientnet import EfficientNet
from densenet_suite.backbones.variants import PUBLISHED, efficientnet_spec

SMALL = [
    "efficientnet(width=0.25, depth=0.25)",
    "tf_efficientnet(width=0.25, depth=0.25)",
    "tf_efficientnet_lite(width=0.25, depth=0.25)",
    "efficientnet_edge(width=0.25, depth=0.25)",
    "tf_efficientnetv2(width=0.25, depth=0.25)",
]
ANY = [*SMALL, "condconv"]


def network(name, drop_path=0.0, **arguments):
    if name != "condconv":
        return create_backbone(name, drop_path=drop_path, **arguments)
    spec = efficientnet_spec(SMALL[1])  # the smallest published one takes ten times as long
    return EfficientNet(replace(spec, experts=4, drop_path=drop_path), **arguments)


def live(name, **arguments):
    return randomize(network(name, **arguments)).eval()


@pytest.fixture
def _unchecked(monkeypatch):
    # a compiler should see the network, not the checks of its shapes; and they take half of the time
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("size", [(1, 1), (31, 2), (65, 33), (224, 64)])
@torch.no_grad()
def test_maps_of_any_image_have_ceil_of_size_over_stride_cells(name, size):
    backbone = live(name)
    maps = backbone(torch.randn(1, 3, *size))
    cells = [tuple(-(-side // stride) for side in size) for stride in (2, 4, 8, 16, 32)]
    assert [tuple(features.shape[1:]) for features in maps] == [
        (channels, *cell) for channels, cell in zip(backbone.channels, cells, strict=True)
    ]


@pytest.mark.usefixtures("_unchecked")
def test_maps_may_be_taken_behind_the_stem_and_other_blocks():
    spec = efficientnet_spec(SMALL[0])
    usual = EfficientNet(spec).eval()
    last = spec.block_taps()[-1]
    tapped = EfficientNet(replace(spec, tap_blocks=(0, 2, last))).eval()
    tapped.load_state_dict(usual.state_dict())
    check_levels(tapped)
    images = torch.randn(1, 3, 65, 33)
    with torch.no_grad():
        stem, _, coarse = tapped(images)
        torch.testing.assert_close(stem, usual.stem(images))
        torch.testing.assert_close(coarse, usual(images)[-1])
    assert tapped.strides == (2, 4, 32)


# research/backbones.md, section 6.2
@pytest.mark.parametrize(
    ("name", "fields"),
    [("efficientnet_b0", (7, 19, 67, 339, 851)), ("efficientnet_b3", (11, 31, 111, 575, 1407))],
)
@pytest.mark.parametrize(("twin", "offsets"), [("", (0, 0, 0, 0, 0)), ("tf_", (1, 3, 7, 15, 31))])
def test_receptive_fields_and_cell_centres_are_the_derived_ones(name, fields, twin, offsets):
    with torch.device("meta"):
        levels = EfficientNet(PUBLISHED[twin + name]).levels
    assert tuple(level.receptive_field for level in levels) == fields
    assert tuple(level.offset for level in levels) == offsets


@cache
def live_double(name):
    return live(name).double()


# without squeeze-and-excitation, whose gates see the whole image
@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ["efficientnet_lite0", "tf_efficientnet_lite0", "tf_efficientnet_es"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_cell_depends_on_exactly_the_pixels_it_states(name, level):
    backbone = live_double(name)
    size = 256
    images = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    stated = backbone.levels[level]
    cell = size // stated.stride // 2
    backbone(images)[level][:, :, cell, cell].sum().backward()
    columns = images.grad.abs().sum((0, 1, 2)).nonzero()
    centre, radius = stated.offset + cell * stated.stride, (stated.receptive_field - 1) / 2
    assert (columns.min(), columns.max()) == (centre - radius, centre + radius)


@pytest.mark.parametrize("name", ANY)
def test_checkpointing_changes_neither_outputs_nor_gradients_nor_statistics(name):
    plain = live(name, drop_path=0.5).train()
    saving = network(name, drop_path=0.5, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 64, 64)
    results = []
    for backbone in (plain, saving):
        torch.manual_seed(3)  # the same paths are dropped, also when blocks are computed again
        maps = backbone(images)
        sum(features.sin().sum() for features in maps).backward()
        results.append(maps)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    gradients = {
        n: apart(q.grad, p.grad) for (n, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True)
    }
    assert {name for name, difference in gradients.items() if difference > 1e-6} == set()
    assert {n for n, b in plain.named_buffers() if not torch.equal(b, saving.get_buffer(n))} == set()


@pytest.mark.usefixtures("_unchecked")
def test_checkpointing_keeps_less_for_the_backward_pass():
    def kept(checkpointing):
        backbone = create_backbone(SMALL[0], checkpointing=checkpointing).train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            backbone(torch.randn(2, 3, 64, 64))
        return sum(sizes)

    assert kept(checkpointing=True) < kept(checkpointing=False) / 2


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ANY)
@torch.no_grad()
def test_channels_last_gives_the_same_result(name):
    backbone = live(name)
    images = torch.randn(2, 3, 65, 64)
    expected = backbone(images)
    maps = backbone.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert all(apart(own, other) < 1e-5 for own, other in zip(maps, expected, strict=True))


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("name", ANY)
@torch.no_grad()
def test_bf16_autocast_is_finite_and_near(name):
    backbone = live(name)
    images = torch.randn(2, 3, 64, 64)
    expected = backbone(images)
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(images)
    assert all(apart(own.float(), other) < 0.1 for own, other in zip(maps, expected, strict=True))


@pytest.mark.usefixtures("_unchecked")
@torch.no_grad()
def test_dynamic_export_takes_less_than_30_seconds_and_runs_at_other_sizes():
    backbone = live("tf_efficientnet_b0")
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        program = torch.export.export(backbone, (torch.randn(1, 3, 96, 130),), dynamic_shapes={"images": sides})
    assert time.process_time() - started < 30
    for size in ((97, 131), (224, 64)):
        images = torch.randn(1, 3, *size)
        maps = program.module()(images)
        assert all(apart(own, other) < 1e-6 for own, other in zip(maps, backbone(images), strict=True))


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize(("name", "training"), [*((name, False) for name in ANY), (SMALL[1], True)])
def test_compiles_as_one_graph(name, training):
    backbone = live(name).train(training)
    images = torch.randn(2, 3, 64, 65)
    with torch.no_grad():
        compiled = torch.compile(backbone, fullgraph=True, backend="eager")(images)
        assert all(apart(own, other) < 1e-5 for own, other in zip(compiled, backbone(images), strict=True))


@pytest.mark.usefixtures("_unchecked")
def test_a_compiled_training_step_has_the_same_gradients():
    backbone = live(SMALL[1]).train()
    images = torch.randn(2, 3, 64, 65)
    gradients = []
    for form in (backbone, torch.compile(backbone, fullgraph=True, backend="aot_eager")):
        backbone.zero_grad()
        sum(features.sin().sum() for features in form(images)).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in backbone.named_parameters()})
    assert {name for name in gradients[0] if apart(gradients[1][name], gradients[0][name]) > 1e-4} == set()


def test_depthwise_kernels_start_as_large_as_tensorflows():
    torch.manual_seed(0)
    block = EfficientNet(PUBLISHED["efficientnet_b0"]).stages[5][1].requires_grad_(False)
    assert block.depthwise.conv.weight.std() == pytest.approx((2 / 25) ** 0.5, rel=0.02)  # kernel 5, one channel each
    assert block.project.conv.weight.std() == pytest.approx((2 / 192) ** 0.5, rel=0.02)
    assert block.se.reduce.bias.abs().max() == 0


@pytest.mark.usefixtures("_unchecked")
def test_published_stochastic_depth_is_the_default():
    rates = [
        block.drop_path.p for stage in create_backbone("efficientnet_b0").stages for block in stage if block.drop_path
    ]
    assert max(rates) == pytest.approx(0.2 * 14 / 16)  # the last of 16 blocks has no residual
