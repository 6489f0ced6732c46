from functools import partial

import pytest
import timm.layers
import torch
from hypothesis import given
from hypothesis import strategies as st
from references import assert_equal_modules, rename_with
from timm.models import maxxvit
from torch import Tensor

from cifarblocks.blocks import RelativeAttention, RelativeTransformerBlock
from cifarblocks.blocks.relative_attention import pairwise_bias

BLOCK = {
    "norm1.norm": "attention_norm",
    "norm1": "attention_norm",
    "attn.qkv": "attention.qkv",
    "attn.rel_pos.relative_position_bias_table": "attention.relative_bias",
    "attn.proj": "attention.project",
    "shortcut.expand": "shortcut.1",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
ATTENTION = {"qkv": "qkv", "rel_pos.relative_position_bias_table": "relative_bias", "proj": "project"}


def convert(name: str, tensor: Tensor, size: tuple[int, int], head_channels: int) -> Tensor:
    """timm's layout → ours: the table by heads first, queries, keys and values one after the other."""
    if name.endswith("bias_table"):
        h, w = size
        return tensor.T.reshape(-1, 2 * h - 1, 2 * w - 1)
    if "qkv" in name:
        heads = tensor.shape[0] // (3 * head_channels)
        return tensor.view(heads, 3, head_channels, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
    return tensor


@pytest.fixture(autouse=True)
def exact_attention():
    timm.layers.set_fused_attn(False)
    yield
    timm.layers.set_fused_attn(True)


@pytest.mark.parametrize(("channels", "out_channels", "head_channels"), [(16, 16, 8), (12, 24, 8), (32, 32, 32)])
def test_attention_equals_timm(channels, out_channels, head_channels):
    position = partial(timm.layers.RelPosBias, window_size=(5, 3))
    theirs = maxxvit.Attention2d(channels, out_channels, dim_head=head_channels, rel_pos_cls=position)
    ours = RelativeAttention(channels, (5, 3), head_channels, out_channels=out_channels)
    assert_equal_modules(
        ours,
        theirs,
        torch.randn(2, channels, 5, 3),
        partial(rename_with, ATTENTION),
        partial(convert, size=(5, 3), head_channels=head_channels),
    )


@pytest.mark.parametrize(("c_in", "c_out", "stride", "mlp_ratio"), [(16, 16, 1, 4), (16, 24, 2, 4), (24, 24, 2, 3)])
def test_block_equals_timm(c_in, c_out, stride, mlp_ratio):
    size = (7, 4) if stride == 1 else (4, 2)
    configuration = maxxvit.MaxxVitTransformerCfg(pool_type="max", dim_head=8, expand_ratio=mlp_ratio)
    position = partial(timm.layers.RelPosBias, window_size=size)
    theirs = maxxvit.TransformerBlock2d(c_in, c_out, stride, rel_pos_cls=position, cfg=configuration)
    ours = RelativeTransformerBlock(c_in, c_out, (7, 4), stride, head_channels=8, mlp_ratio=mlp_ratio)
    assert_equal_modules(
        ours,
        theirs,
        torch.randn(2, c_in, 7, 4),
        partial(rename_with, BLOCK),
        partial(convert, size=size, head_channels=8),
    )


sizes = st.integers(1, 7)


def interpolation(n: int, length: int) -> torch.Tensor:
    """A row of weights for each of n places between `length` others, corners not aligned."""
    places = ((torch.arange(n, dtype=torch.float64) + 0.5) * length / n - 0.5).clamp(0, length - 1)
    return (1 - (places[:, None] - torch.arange(length)).abs()).clamp(min=0)


@given(*[sizes] * 4)
def test_a_resized_table_is_interpolated_in_straight_lines(h, w, new_h, new_w):
    table = torch.randn(2, 2 * h - 1, 2 * w - 1, dtype=torch.float64)
    rows, columns = interpolation(2 * new_h - 1, 2 * h - 1), interpolation(2 * new_w - 1, 2 * w - 1)
    resized = torch.einsum("yi,gij,xj->gyx", rows, table, columns)
    torch.testing.assert_close(pairwise_bias(table, new_h, new_w), pairwise_bias(resized, new_h, new_w))


@given(h=sizes, w=sizes)
def test_at_its_own_size_a_table_is_exact(h, w):
    table = torch.randn(1, 2 * h - 1, 2 * w - 1)
    bias = pairwise_bias(table, h, w)[0]
    for query in range(h * w):
        for key in range(h * w):
            dy, dx = query // w - key // w, query % w - key % w
            assert bias[query, key] == table[0, dy + h - 1, dx + w - 1]


def test_a_block_made_for_one_map_runs_on_another_and_trains():
    block = RelativeTransformerBlock(16, 16, (4, 3), head_channels=8)
    y = block(torch.randn(2, 16, 6, 9))
    assert y.shape == (2, 16, 6, 9)
    y.square().sum().backward()
    assert block.attention.relative_bias.grad.abs().sum() > 0
