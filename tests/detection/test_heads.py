import pytest
import torch

from densenet_suite.detection.heads import PRIOR_BIAS, PredictionHead
from densenet_suite.detection.model import NORM


def head(**options):
    return PredictionHead(8, 3, 9, repeats=2, levels=2, act="silu", norm=NORM, **options)


def test_predictions_are_ordered_by_level_row_column_and_anchor():
    network = head().eval()
    features = [torch.randn(2, 8, 2, 3), torch.randn(2, 8, 1, 2)]
    together = network(features)
    assert together.shape == (2, (6 + 2) * 9, 3)
    x = features[1]
    for conv, norms in zip(network.convs, network.norms, strict=True):
        x = network.act(norms[1](conv(x)))
    second = network.predict(x)  # [b 27 1 2]: anchor-major channels
    cell = second[:, :, 0, 1].reshape(2, 9, 3)
    torch.testing.assert_close(together[:, 7 * 9 :], cell)


def test_each_level_has_statistics_of_its_own():
    network = head().train()
    network([torch.randn(2, 8, 4, 4) + 5, torch.randn(2, 8, 4, 4) - 5])
    fine, coarse = network.norms[0][0].running_mean, network.norms[0][1].running_mean
    assert not torch.allclose(fine, coarse)


def test_convolutions_are_shared_by_all_levels():
    assert len(head().convs) == 2


def test_a_prior_of_one_percent_starts_the_classes():
    bias = head(bias=PRIOR_BIAS).predict.pointwise.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))


@pytest.mark.parametrize("part", ["depthwise", "pointwise"])
def test_kernels_start_with_the_published_spread(part):
    torch.manual_seed(0)
    kernels = PredictionHead(64, 90, 9, repeats=3, levels=5, act="silu", norm=NORM)
    weight = getattr(kernels.predict, part).weight.detach()
    fan_in = {"depthwise": 9, "pointwise": 64}[part]
    assert float(weight.std()) == pytest.approx(fan_in**-0.5, rel=0.1)
