from functools import partial

import pytest
import torch
from references import assert_equal_modules, rename_with
from timm.layers import SelectiveKernel as Reference

from cifarblocks.blocks import SelectiveKernel

NAMES = {
    "paths.0.conv": "small.0",
    "paths.0.bn": "small.1",
    "paths.1.conv": "large.0",
    "paths.1.bn": "large.1",
    "attn.fc_reduce": "reduce.0",
    "attn.bn": "reduce.1",
    "attn.fc_select": "expand",
}


@pytest.mark.parametrize(("channels", "groups", "hidden"), [(6, 1, 5), (12, 3, 8), (8, 8, 4), (64, 32, 32)])
def test_equals_timm(channels, groups, hidden):
    reference = Reference(channels, groups=groups, rd_channels=hidden, split_input=False)
    x = torch.randn(3, channels, 7, 5)
    assert_equal_modules(SelectiveKernel(channels, groups, hidden), reference, x, partial(rename_with, NAMES))


@pytest.mark.parametrize(("channels", "hidden"), [(16, 32), (512, 32), (1024, 64)])
def test_the_default_width_is_that_of_equation_4(channels, hidden):
    assert SelectiveKernel(channels, groups=channels).reduce[0].out_channels == hidden
