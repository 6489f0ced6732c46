"""The kernels are used if they exist and were measured to be faster than torch's operations."""

import copy

import pytest
import torch
from torch import nn

import cifarblocks
from cifarblocks.native import depthwise, scale
from cifarblocks.native.depthwise import are_faster

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((3, 64, 8, 8), BF16, False),
        ((16, 64, 8, 8), BF16, True),
        ((16, 64, 8, 8), F32, True),
        ((17, 64, 32, 32), F32, True),
        ((17, 64, 32, 32), BF16, True),
        ((16, 64, 8, 8), F16, False),
    ],
)
def test_of_batch_norm_on_maps_that_are_not_small(shape, dtype, expected):
    x = torch.empty(shape, dtype=dtype).to(memory_format=torch.channels_last)
    assert cifarblocks.accelerate(nn.BatchNorm2d(64)).serves(x) is expected


@pytest.mark.parametrize(
    ("kernel_size", "size", "stride", "dtype", "expected"),
    [
        ((3, 3), 8, 1, BF16, False),
        ((5, 5), 8, 1, F32, True),
        ((11, 1), 16, 1, F32, False),
        ((11, 1), 8, 1, BF16, True),
        ((3, 3), 8, 2, BF16, True),
        ((5, 5), 8, 2, F32, False),
    ],
)
def test_of_a_depthwise_weight_where_torch_has_no_fast_gradient(kernel_size, size, stride, dtype, expected):
    assert are_faster(dtype, torch.empty(4, 1, *kernel_size), size, (stride, stride)) is expected


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [((64, 64, 16), BF16, True), ((63, 64, 16), BF16, False), ((64, 2, 513), BF16, False), ((64, 64, 16), F32, False)],
)
def test_of_layer_norm_on_short_rows_of_bfloat16(shape, dtype, expected):
    norm = cifarblocks.accelerate(nn.LayerNorm(shape[-1]))
    assert norm.gains(torch.empty(shape, dtype=dtype)) is expected


@pytest.mark.parametrize(
    ("batch", "dtype", "expected"), [(16, BF16, True), (15, BF16, False), (255, F32, False), (256, F32, True)]
)
def test_of_layer_scale_on_maps_that_are_not_small(batch, dtype, expected, monkeypatch):
    monkeypatch.setattr(scale, "library", object)
    x = torch.empty(batch, 64, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    assert scale.gains(x, torch.empty(64)) is expected


@pytest.mark.parametrize(
    ("channels", "dtype", "amx", "expected"),
    [(32, BF16, True, True), (32, BF16, False, False), (31, BF16, True, False), (32, F32, True, False)],
)
def test_of_a_narrow_depthwise_weight_in_bfloat16_with_amx(channels, dtype, amx, expected, monkeypatch):
    monkeypatch.setattr(depthwise, "amx", lambda: amx)
    assert are_faster(dtype, torch.empty(channels, 1, 3, 3), 8, (1, 1)) is expected


def test_none_without_a_compiler():
    """Nothing is native unless a test turns it on."""
    plain = cifarblocks.blocks.MSCABlock(8, 2).to(memory_format=torch.channels_last)
    x = torch.randn(16, 8, 32, 32).to(memory_format=torch.channels_last)
    gradients = []
    for block in (plain, cifarblocks.accelerate(copy.deepcopy(plain))):
        block(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in block.parameters()])
    torch.testing.assert_close(*gradients)
