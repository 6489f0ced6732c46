from functools import partial

import pytest
import torch
from references import assert_equal_modules, assert_equals_formula, convolution, randomise, rename_with
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from cifarblocks.blocks import CBAM

NAMES = {
    "channel.fc1": "channel.0",
    "channel.fc2": "channel.2",
    "spatial.conv.conv": "spatial.0",
    "spatial.conv.bn": "spatial.1",
}


@pytest.mark.parametrize(("channels", "hidden"), [(32, None), (12, 5), (8, 1)])
def test_equals_timm(channels, hidden):
    reference = CbamModule(channels, rd_channels=hidden)
    x = torch.randn(3, channels, 9, 5)
    assert_equal_modules(CBAM(channels, hidden), reference, x, partial(rename_with, NAMES))


def equations(x: Tensor, module) -> Tensor:
    """Equations 1 to 3, which have no norm."""
    places = torch.stack([x[:, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])], -1)
    logits = torch.zeros(())
    for pooled in (places.sum(2) / places.shape[2], places.sort(2).values[:, :, -1]):
        hidden = convolution(pooled[:, :, None, None], module.channel[0])
        logits = logits + convolution(hidden * (hidden > 0), module.channel[2])
    x = x / (1 + torch.exp(-logits))
    pooled = torch.stack([sum(x.unbind(1)) / x.shape[1], x.sort(1).values[:, -1]], 1)
    return x / (1 + torch.exp(-convolution(pooled, module.spatial[0])))


def test_without_a_norm_it_is_the_papers_equations():
    module = randomise(CBAM(6, 4, norm=nn.Identity)).double()
    assert_equals_formula(module, partial(equations, module=module), torch.randn(2, 6, 5, 4, dtype=torch.float64))


@pytest.mark.parametrize(("channels", "hidden"), [(64, 4), (16, 1), (8, 1)])
def test_the_default_width_is_a_sixteenth_and_at_least_one(channels, hidden):
    assert CBAM(channels).channel[0].out_channels == hidden
