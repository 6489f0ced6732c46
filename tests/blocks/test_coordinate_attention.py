from functools import partial

import pytest
import torch
from references import assert_equal_modules, rename_with
from timm.layers.coord_attn import CoordAttn
from torch import nn

from cifarblocks.blocks import CoordinateAttention

NAMES = {"conv1": "reduce.0", "bn1": "reduce.1", "conv_h": "expand_rows", "conv_w": "expand_columns"}


@pytest.mark.parametrize(
    ("channels", "hidden", "activation"), [(6, 5, nn.Hardswish), (12, 8, nn.ReLU), (3, 1, nn.SiLU)]
)
def test_equals_timm(channels, hidden, activation):
    reference = CoordAttn(channels, rd_channels=hidden, bias=True, act_layer=activation)
    x = torch.randn(3, channels, 7, 4)
    block = CoordinateAttention(channels, hidden, activation)
    assert_equal_modules(block, reference, x, partial(rename_with, NAMES))


@pytest.mark.parametrize(("channels", "hidden"), [(16, 8), (256, 8), (512, 16)])
def test_the_default_width_is_that_of_the_authors_code(channels, hidden):
    assert CoordinateAttention(channels).reduce[0].out_channels == hidden
