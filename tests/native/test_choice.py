"""The kernels are taken where there are any, and where they are faster than torch's operations, as measured."""

import copy

import pytest
import torch
from torch import nn

import cifarblocks
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


def test_none_without_a_compiler():
    """As everywhere in these tests where they are not turned on."""
    plain = cifarblocks.blocks.MSCABlock(8, 2).to(memory_format=torch.channels_last)
    x = torch.randn(16, 8, 32, 32).to(memory_format=torch.channels_last)
    gradients = []
    for block in (plain, cifarblocks.accelerate(copy.deepcopy(plain))):
        block(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in block.parameters()])
    torch.testing.assert_close(*gradients)
