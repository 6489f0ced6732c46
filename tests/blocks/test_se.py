import pytest
import torch
from references import assert_equal_modules
from torch import nn
from torchvision.ops import SqueezeExcitation

from cifarblocks.blocks import SqueezeExcite

NAMES = {"fc1": "reduce", "fc2": "expand"}


@pytest.mark.parametrize(("activation", "gate"), [(nn.ReLU, nn.Sigmoid), (nn.SiLU, nn.Hardsigmoid)])
def test_equals_torchvision(activation, gate):
    reference = SqueezeExcitation(12, 5, activation=activation, scale_activation=gate)
    block = SqueezeExcite(12, 5, activation, gate)
    assert_equal_modules(block, reference, torch.randn(2, 12, 3, 5), lambda name: NAMES[name[:3]] + name[3:])


@pytest.mark.parametrize(("channels", "hidden"), [(64, 4), (16, 1), (8, 1)])
def test_the_default_width_is_a_sixteenth_and_at_least_one(channels, hidden):
    assert SqueezeExcite(channels).reduce.out_channels == hidden
