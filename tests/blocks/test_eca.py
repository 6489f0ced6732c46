import math

import pytest
import timm.layers
import torch
from hypothesis import given
from hypothesis import strategies as st
from references import assert_equal_modules

from cifarblocks.blocks import ECA
from cifarblocks.blocks.eca import adaptive_kernel_size


@pytest.mark.parametrize(
    ("channels", "kernel_size"), [(8, None), (64, None), (100, None), (128, None), (2048, None), (6, 9), (64, 7)]
)
def test_equals_timm(channels, kernel_size):
    chosen = {"channels": channels} if kernel_size is None else {"kernel_size": kernel_size}
    reference = timm.layers.EcaModule(**chosen)
    assert_equal_modules(
        ECA(channels, kernel_size), reference, torch.randn(2, channels, 3, 5), rename=lambda name: name
    )


@given(st.integers(1, 4096))
def test_the_adaptive_kernel_is_the_nearest_odd_number_ties_upward(channels):
    exact = (math.log2(channels) + 1) / 2
    nearest = min(range(1, 21, 2), key=lambda odd: (abs(odd - exact), -odd))
    assert adaptive_kernel_size(channels) == nearest
