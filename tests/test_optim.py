import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from densenet_suite.errors import ConfigError
from densenet_suite.optim import Recipe, freeze, frozen_norms, parameter_groups


class _Net(nn.Module):
    """A backbone and a head, with everything that is not decayed."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.edge_weights = nn.Parameter(torch.ones(3))


@pytest.fixture
def net():
    return _Net()


def _names(model, group):
    chosen = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def test_kernels_are_decayed_and_norms_biases_and_fusion_weights_are_not(net):
    decayed, plain = parameter_groups(net, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert _names(net, decayed) == {"backbone.0.weight", "backbone.2.weight", "head.weight"}
    assert _names(net, decayed) | _names(net, plain) == {name for name, _ in net.named_parameters()}
    assert not _names(net, decayed) & _names(net, plain)


def test_what_is_frozen_is_in_no_group(net):
    freeze(net, ["backbone.*"])
    decayed, plain = parameter_groups(net, 0.1)
    assert _names(net, decayed) | _names(net, plain) == {"head.weight", "head.bias", "edge_weights"}


@pytest.mark.parametrize(
    ("optimizer", "batch", "lr"),
    [("sgd", 64, 0.08), ("sgd", 16, 0.02), ("sgd", 128, 0.16), ("adamw", 16, 0.04), ("adamw", 256, 0.16)],
)
def test_the_learning_rate_follows_the_batch(optimizer, batch, lr):
    assert Recipe(optimizer, lr=0.08).lr_for(batch) == pytest.approx(lr)


def test_sgd_is_built_as_the_recipe_says(net):
    optimizer = Recipe("sgd", lr=0.08, momentum=0.8, weight_decay=0.1).build(net, 16)
    assert type(optimizer) is torch.optim.SGD
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.02])
    assert {group["momentum"] for group in optimizer.param_groups} == {0.8}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_adamw_is_built_as_the_recipe_says(net):
    optimizer = Recipe("adamw", lr=0.08, weight_decay=0.1).build(net, 16)
    assert type(optimizer) is torch.optim.AdamW
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.04, 0.04])
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


RECIPES = [Recipe("sgd", lr=0.5, weight_decay=0.1), Recipe("adamw", lr=0.01, weight_decay=0.1)]


def _learn(optimizer, model, steps=5):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_fused_step_is_the_plain_one(recipe, dtype, net, monkeypatch):
    net.to(dtype)
    other = deepcopy(net)
    fused = recipe.build(net, 64)
    monkeypatch.setattr("densenet_suite.optim._can_be_fused", lambda groups: False)
    plain = recipe.build(other, 64)
    assert {group["fused"] for group in fused.param_groups} == {True}
    assert {group["fused"] for group in plain.param_groups} == {None}
    _learn(fused, net)
    _learn(plain, other)
    rounding = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("recipe", RECIPES)
def test_where_torch_cannot_fuse_the_step_is_plain(recipe, net):
    optimizer = recipe.build(net.to("meta"), 64)
    assert {group["fused"] for group in optimizer.param_groups} == {None}


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_can_be_clipped_in_mixed_precision(recipe, net):
    precision = MixedPrecision("bf16-mixed", "cpu")
    optimizer = recipe.build(net, 64)
    optimizer.load_state_dict(optimizer.state_dict())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    precision.clip_gradients(optimizer, 1.0)
    assert sum(p.grad.square().sum() for p in net.parameters()).sqrt() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_scaled_gradient_is_unscaled_once_and_a_step_of_infinite_ones_left_out(recipe, net):
    other = deepcopy(net)
    optimizer, scaler = recipe.build(net, 64), torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.zeros(()))
    for factor in (1024, torch.inf):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, factor)
        scaler.step(optimizer)
        scaler.update()
    plain = recipe.build(other, 64)
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    plain.step()
    torch.testing.assert_close(net.state_dict(), other.state_dict())


def test_the_learning_rate_rises_linearly_then_falls_along_a_cosine():
    factors = [Recipe(warmup_epochs=2).factor(step, 10, 100) for step in range(101)]
    rises = [after - before for before, after in pairwise(factors[:21])]
    assert factors[0] > 0
    assert rises == pytest.approx([factors[0]] * 20)
    assert factors[20] == max(factors) == 1
    cosine = [0.5 * (1 + math.cos(math.pi * i / 80)) for i in range(81)]
    assert factors[20:] == pytest.approx(cosine)


def test_the_cosine_is_that_of_torch():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for step in range(30):
        assert Recipe(warmup_epochs=0).factor(step, 10, 30) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_without_warm_up_training_begins_at_the_full_rate():
    assert Recipe(warmup_epochs=0).factor(0, 10, 100) == 1


def test_warm_up_takes_no_more_than_half_of_a_short_run():
    factors = [Recipe(warmup_epochs=5).factor(step, 10, 8) for step in range(8)]
    assert max(range(8), key=factors.__getitem__) == 4


@pytest.mark.parametrize("total", [0, 1, 2])
def test_a_run_of_a_step_or_two_has_a_learning_rate(total):
    assert all(0 < Recipe().factor(step, 1, total) <= 1 for step in range(total))


def test_beyond_the_end_the_rate_stays_at_nothing():
    assert Recipe(warmup_epochs=0).factor(150, 10, 100) == pytest.approx(0)


def test_freeze_stops_what_matches_and_counts_it(net):
    assert freeze(net, ["backbone.*", "head.bias"]) == 9
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {"head.weight", "edge_weights"}


def test_freezing_nothing_is_fine(net):
    assert freeze(net, []) == 0


def test_a_pattern_that_matches_nothing_suggests_the_nearest(net):
    with pytest.raises(ConfigError, match=r"the pattern 'bakbone' matches no parameter\n  hint: did you mean backbone"):
        freeze(net, ["head.*", "bakbone"])
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_pattern_near_to_nothing_shows_what_parameters_are_called(net):
    with pytest.raises(
        ConfigError, match=r"'zzz\*' matches no parameter\n  hint: parameters are named like edge_weights"
    ):
        freeze(net, ["zzz*"])


def test_freezing_everything_is_refused(net):
    with pytest.raises(ConfigError, match=r"train.freeze: \['\*'\] leave nothing to train"):
        freeze(net, ["*"])


def test_frozen_norms_are_those_of_which_nothing_is_trained(net):
    assert frozen_norms(net) == []
    freeze(net, ["backbone.0.*", "backbone.1.*", "backbone.3.bias"])
    assert frozen_norms(net) == [net.backbone[1]]
