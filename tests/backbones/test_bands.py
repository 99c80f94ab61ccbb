import pytest
import torch
from peers import apart

from densenet_suite import ConfigError
from densenet_suite.backbones.bands import adapt_bands


def test_weights_for_other_bands_than_rgb_are_refused():
    with pytest.raises(ConfigError, match=r"weights are for 4 bands, the network takes 5  \(a file\)"):
        adapt_bands(torch.zeros(8, 4, 3, 3), 5, None, "a file")


def test_the_sum_of_a_kernel_over_grey_bands_is_kept():
    weight = torch.randn(8, 3, 3, 3)
    adapted = adapt_bands(weight, 3, ("grey", "grey", "grey"))
    assert apart(adapted.sum(1), weight.sum(1)) < 1e-6
