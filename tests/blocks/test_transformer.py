from functools import partial

import torch
from references import assert_equal_modules, rename_with
from timm.models.vision_transformer import Block
from torch import nn
from torchvision.models.vision_transformer import EncoderBlock

from cifarblocks.blocks import TransformerBlock
from cifarblocks.blocks.transformer import PostNormBlock

TIMM = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.project",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}
TORCHVISION = {
    "ln_1": "attention_norm",
    "self_attention.in_proj_weight": "attention.qkv.weight",
    "self_attention.in_proj_bias": "attention.qkv.bias",
    "self_attention.out_proj": "attention.project",
    "ln_2": "mlp_norm",
    "mlp": "mlp",
}
TORCH = {
    "self_attn.in_proj_weight": "attention.qkv.weight",
    "self_attn.in_proj_bias": "attention.qkv.bias",
    "self_attn.out_proj": "attention.project",
    "norm1": "attention_norm",
    "linear1": "mlp.0",
    "linear2": "mlp.3",
    "norm2": "mlp_norm",
}


def test_equals_timm():
    theirs = Block(12, 3, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    assert_equal_modules(TransformerBlock(12, 4), theirs, torch.randn(2, 10, 12), partial(rename_with, TIMM))


def test_equals_torchvision():
    theirs = EncoderBlock(3, 12, 24, dropout=0.0, attention_dropout=0.0)
    x = torch.randn(2, 10, 12)
    assert_equal_modules(TransformerBlock(12, 4, mlp_ratio=2), theirs, x, partial(rename_with, TORCHVISION))


def test_post_norm_equals_torch():
    theirs = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True)
    assert_equal_modules(PostNormBlock(12, 4, mlp_ratio=2), theirs, torch.randn(2, 10, 12), partial(rename_with, TORCH))


def test_post_norm_drops_the_branches_alone():
    block = PostNormBlock(12, 4, drop_path=0.999).train()
    x = torch.randn(2, 10, 12)
    torch.testing.assert_close(block(x), nn.functional.layer_norm(x, (12,)), rtol=1e-4, atol=1e-4)
