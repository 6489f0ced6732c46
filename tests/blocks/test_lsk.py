from functools import partial

import pytest
import torch
from references import assert_equals_formula, convolution, large_kernel_block, large_kernel_unit, randomise
from torch import Tensor

from cifarblocks.blocks import LSKAttention, LSKBlock, LSKUnit


def lsk(x: Tensor, module) -> Tensor:
    u1 = convolution(x, module.small)
    u2 = convolution(u1, module.large, dilation=3)
    v1, v2 = convolution(u1, module.reduce_small), convolution(u2, module.reduce_large)
    channels = [*v1.unbind(1), *v2.unbind(1)]
    mean = sum(channels) / len(channels)
    largest = channels[0]
    for channel in channels[1:]:
        largest = torch.maximum(largest, channel)
    gates = 1 / (1 + torch.exp(-convolution(torch.stack([mean, largest], 1), module.select)))
    return x * convolution(gates[:, 0:1] * v1 + gates[:, 1:2] * v2, module.expand)


def unit(x: Tensor, module) -> Tensor:
    return large_kernel_unit(x, module, lsk)


@pytest.mark.parametrize(
    ("module", "formula"),
    [
        (LSKAttention(2), lsk),
        (LSKAttention(3), lsk),
        (LSKUnit(3), unit),
        (LSKBlock(3, 2), partial(large_kernel_block, unit=unit, training=True)),
        (LSKBlock(3, 2).eval(), partial(large_kernel_block, unit=unit, training=False)),
    ],
    ids=["2 channels", "3 channels", "unit", "block in training", "block in eval"],
)
def test_is_its_formula(module, formula):
    channels = next(parameter.shape[0] for parameter in module.parameters())
    x = torch.randn(2, channels, 6, 5, dtype=torch.float64)
    assert_equals_formula(randomise(module).double(), partial(formula, module=module), x)
