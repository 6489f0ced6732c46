"""Accelerated LayerScale: equal to a product of torch's, with gradients by our kernels on a CPU."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels import kernels_on
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import cifarblocks
from cifarblocks.blocks.basic import LayerScale
from cifarblocks.native.scale import ChannelScale


@pytest.fixture(autouse=True)
def used():
    """The names of the kernels that have run."""
    with kernels_on() as names:
        yield names


def pair(channels, dtype=torch.float64):
    """Ours, and the block's with the same factors."""
    plain = LayerScale(channels, 1.0).to(dtype)
    nn.init.normal_(plain.gamma)
    return cifarblocks.accelerate(copy.deepcopy(plain)), plain


def maps(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64).to(dtype).to(memory_format=torch.channels_last)


def gradients(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    return [y.detach(), x.grad, module.gamma.grad]


@given(st.one_of(st.integers(1, 70), st.integers(500, 530)), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_values_and_gradients_are_those_of_torch(channels, batch, h, w):
    ours, plain = pair(channels)
    x = maps(batch, channels, h, w)
    torch.testing.assert_close(gradients(ours, x), gradients(plain, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_factors_of_float32_give_float32(dtype, used):
    """Torch's product does the same."""
    ours, plain = pair(24, torch.float32)
    x = maps(4, 24, 5, 3, dtype=dtype)
    result, expected = gradients(ours, x), gradients(plain, x)
    assert used == ["scale", "scale_backward"]
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])
    torch.testing.assert_close(result[2], expected[2])


def test_gradcheck_and_gradgradcheck():
    inputs = (maps(2, 3, 4, 2).requires_grad_(), pair(3)[0].gamma)
    assert gradcheck(ChannelScale.apply, inputs)
    assert gradgradcheck(ChannelScale.apply, inputs)


@pytest.mark.parametrize(
    "change",
    [
        lambda module, x: (module, x.contiguous()),
        lambda module, x: (module.bfloat16(), x.bfloat16()),
        lambda module, x: (setattr(module, "gamma", nn.Parameter(torch.ones(16)[::2])) or module, x),
    ],
    ids=["contiguous", "pure bfloat16", "sliced factors"],
)
def test_the_rest_is_left_to_torch(change, used):
    results = []
    for module in pair(8, torch.float32):
        torch.manual_seed(1)
        changed, x = change(module, maps(4, 8, 5, 6, dtype=torch.float32))
        results.append(changed(x))
    assert not used
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_what_is_transformed_or_wrong_is_torchs():
    modules, x = pair(4), maps(3, 4, 5, 2)
    jacobians = [torch.autograd.functional.jacobian(module, x, vectorize=True) for module in modules]
    torch.testing.assert_close(*jacobians)
    for module in modules:
        with pytest.raises(ValueError, match="got 3 axes"):
            module(x[0])
