import pytest
import timm.layers
import torch
from references import assert_equal_modules

from cifarblocks.blocks import SelfAttention


def test_equals_timm():
    theirs = timm.layers.Attention(12, num_heads=3, qkv_bias=True)
    x = torch.randn(2, 10, 12)
    assert_equal_modules(SelfAttention(12, 4), theirs, x, lambda name: name.replace("proj.", "project."))


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match=r"channels must be divisible by head_channels \(64\), got 100"):
        SelfAttention(100)
