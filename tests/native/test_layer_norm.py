"""Accelerated LayerNorm, over the last axis and over channels: equal to torch's, by our kernels on a CPU."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels import kernels_on, threads
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import cifarblocks
from cifarblocks.native.layer_norm import LayerNormalisation


@pytest.fixture(autouse=True)
def used():
    """The names of the kernels that have run."""
    with kernels_on() as names:
        yield names


def pair(channels, kind=nn.LayerNorm, dtype=torch.float64):
    """Ours, and torch's with the same parameters."""
    torchs = kind(channels, eps=1e-3)
    nn.init.normal_(torchs.weight)
    nn.init.normal_(torchs.bias)
    return cifarblocks.accelerate(copy.deepcopy(torchs)).to(dtype), torchs.to(dtype)


def rows(*shape, dtype=torch.float64):
    return (3 * torch.randn(shape, dtype=torch.float64) + 2).to(dtype)


def gradients(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel()).bfloat16().to(y.dtype).view_as(y))
    return [y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())]


# Rows of which many are read at a time, and longer ones.
@given(st.one_of(st.integers(1, 70), st.integers(1020, 1030)), st.integers(1, 9), st.integers(1, 40))
def test_values_and_gradients_are_those_of_torch(channels, batch, tokens):
    ours, torchs = pair(channels)
    x = rows(batch, tokens, channels)
    torch.testing.assert_close(gradients(ours, x), gradients(torchs, x), rtol=1e-9, atol=1e-9)


def test_over_channels_of_a_map_it_is_torchs_and_the_kernels_run(used):
    ours, torchs = pair(24, cifarblocks.blocks.LayerNorm2d)
    x = rows(4, 24, 5, 3).to(memory_format=torch.channels_last)
    result = gradients(ours, x)
    assert used == ["layer_norm", "layer_norm_backward"]
    torch.testing.assert_close(result, gradients(torchs, x), rtol=1e-10, atol=1e-10)
    assert result[0].is_contiguous(memory_format=torch.channels_last)


def test_gradcheck_and_gradgradcheck():
    module = pair(5)[0]
    inputs = (rows(2, 3, 5).requires_grad_(), module.weight, module.bias)
    assert gradcheck(lambda *tensors: LayerNormalisation.apply(*tensors, 1e-3), inputs)
    assert gradgradcheck(lambda *tensors: LayerNormalisation.apply(*tensors, 1e-3), inputs)


def test_bfloat16_is_float32_rounded_once():
    ours = pair(40, dtype=torch.float32)[0]
    x = rows(33, 40, dtype=torch.bfloat16)
    y, x_gradient, *rest = gradients(copy.deepcopy(ours), x)
    exact = gradients(ours, x.float())
    assert torch.equal(y, exact[0].bfloat16())
    assert torch.equal(x_gradient, exact[1].bfloat16())
    assert all(map(torch.equal, rest, exact[2:]))


def test_parameters_in_bfloat16_are_those_in_float32(used):
    ours = pair(40, dtype=torch.bfloat16)[0]
    x = rows(33, 40, dtype=torch.bfloat16)
    found = gradients(copy.deepcopy(ours), x)
    assert used == ["layer_norm", "layer_norm_backward"]
    assert all(map(torch.equal, found, (tensor.bfloat16() for tensor in gradients(ours.float(), x))))


def test_a_mean_far_from_zero_costs_no_accuracy():
    ours = pair(64, dtype=torch.float32)[0]
    x = torch.randn(8, 64) + 3000
    torch.testing.assert_close(ours(x).double(), copy.deepcopy(ours).double()(x.double()), rtol=1e-3, atol=1e-3)


def test_any_number_of_threads_gives_the_same_bits():
    module, x = pair(40, dtype=torch.float32)[0], rows(333, 40, dtype=torch.float32)
    single = gradients(copy.deepcopy(module), x)
    with threads(2):
        double = gradients(module, x)
    assert all(map(torch.equal, single, double))


@pytest.mark.parametrize(
    "change",
    [
        lambda module, x: (module.half(), x.half()),
        lambda module, x: (module, x.transpose(0, 1)),
        lambda module, x: (setattr(module, "bias", None) or module, x),
        lambda module, x: (setattr(module, "weight", nn.Parameter(torch.ones(16)[::2])) or module, x),
    ],
    ids=["float16", "transposed", "no bias", "sliced weight"],
)
def test_the_rest_is_left_to_torch(change, used):
    results = []
    for module in pair(8, dtype=torch.float32):
        changed, x = change(module, torch.linspace(-1, 1, 240).view(5, 6, 8))
        results.append(changed(x))
    assert not used
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_what_a_hook_on_saved_tensors_changes_is_torchs(used):
    def other_strides(saved):
        return saved if saved.ndim == 1 else saved.transpose(0, 1).contiguous().transpose(0, 1)

    results = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, other_strides):
        for norm in pair(8):
            x = torch.linspace(-9, 9, 240).double().view(5, 6, 8).cos().requires_grad_()
            norm(x).square().sum().backward()
            results.append([x.grad, norm.weight.grad])
    assert used == ["layer_norm"]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_what_is_transformed_is_torchs():
    ours, torchs = pair(4)
    x = rows(3, 2, 4)
    jacobians = [torch.autograd.functional.jacobian(module, x, vectorize=True) for module in (ours, torchs)]
    torch.testing.assert_close(*jacobians)
