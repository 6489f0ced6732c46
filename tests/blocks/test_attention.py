import timm.layers
import torch
from references import assert_equal_modules

from cifarblocks.blocks import SelfAttention


def test_equals_timm():
    theirs = timm.layers.Attention(12, num_heads=3, qkv_bias=True)
    x = torch.randn(2, 10, 12)
    assert_equal_modules(SelfAttention(12, 4), theirs, x, lambda name: name.replace("proj.", "project."))
