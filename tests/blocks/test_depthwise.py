"""DepthwiseConv2d: torch's convolution, whose gradients are our own where it is trained on a CPU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from cifarblocks import native
from cifarblocks.blocks import DepthwiseConv2d, depthwise


@pytest.fixture(scope="module", autouse=True)
def compiled_loops():
    """The other tests of blocks run without them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CIFARBLOCKS_NATIVE")
        native.library.cache_clear()
        assert native.library() is not None, "there is no C++ compiler"
        yield
    native.library.cache_clear()


def pair(channels, kernel_size, stride, dilation, bias):
    """Ours, and torch's with the same weights."""
    ours = DepthwiseConv2d(channels, kernel_size, stride, dilation=dilation, bias=bias)
    torchs = nn.Conv2d(channels, channels, ours.kernel_size, stride, ours.padding, dilation, channels, bias)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def gradients(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    return [x.grad, *(parameter.grad for parameter in module.parameters())]


odd = st.sampled_from([1, 3, 5, 7, 11])


@given(
    st.integers(1, 70),
    st.tuples(odd, odd),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.integers(1, 20),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_gradients_are_those_of_torch(channels, kernel_size, stride, dilation, bias, batch, size, layout):
    ours, torchs = (module.double() for module in pair(channels, kernel_size, stride, dilation, bias))
    x = torch.randn(batch, channels, *size, dtype=torch.float64).to(memory_format=layout)
    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-12, atol=1e-12)
    for ours_, theirs in zip(gradients(ours, x), gradients(torchs, x), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_gradcheck_and_gradgradcheck(stride, dilation):
    module = DepthwiseConv2d(3, (3, 5), stride, dilation=dilation).double()
    inputs = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True), module.weight, module.bias)
    places = module.stride, module.padding, module.dilation
    function = depthwise.DepthwiseConvolution.apply
    assert gradcheck(lambda *tensors: function(*tensors, *places), inputs)
    assert gradgradcheck(lambda *tensors: function(*tensors, *places), inputs)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_sums_in_float32(autocast):
    """The gradient of the weight is the exact one rounded once."""
    ours, exact = pair(40, 7, 1, 1, True)
    if not autocast:
        ours.bfloat16()
    with torch.no_grad():
        exact.weight.copy_(ours.weight.bfloat16())
    x = torch.randn(8, 40, 12, 10).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = ours(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    torch.autograd.backward(exact.double()(x.double()), (2 * y.detach()).double())
    assert ours.weight.grad.dtype == ours.weight.dtype
    torch.testing.assert_close(ours.weight.grad.double(), exact.weight.grad, rtol=2**-8, atol=1e-3)


def test_any_number_of_threads_gives_the_same_bits():
    module, x = DepthwiseConv2d(70, 5), torch.randn(33, 70, 9, 8)
    single = gradients(module, x)
    module.zero_grad()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        double = gradients(module, x)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(single[1], double[1])


def loops_used(monkeypatch):
    """A list that grows with each gradient computed by the loops."""
    used = []
    original = depthwise.weight_gradient
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *tensors: used.append(1) or original(*tensors))
    return used


def test_it_is_absent_in_inference_under_transforms_and_when_turned_off(monkeypatch):
    used = loops_used(monkeypatch)
    module, x = DepthwiseConv2d(8, 3), torch.randn(2, 8, 5, 4)
    with torch.no_grad():
        assert type(module(x).grad_fn) is type(None)
    weight, bias = module.weight.detach(), module.bias.detach()

    def loss(weight):
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,)).square().sum()

    functional = torch.func.grad(loss)(weight)
    assert not used
    gradient = torch.autograd.grad(module(x).square().sum(), module.weight)[0]
    assert used
    torch.testing.assert_close(functional, gradient)
    used.clear()
    monkeypatch.setenv("CIFARBLOCKS_NATIVE", "0")
    native.library.cache_clear()
    torch.testing.assert_close(torch.autograd.grad(module(x).square().sum(), module.weight)[0], gradient)
    assert not used
    native.library.cache_clear()


def test_one_batch_after_another_of_another_size(monkeypatch):
    used = loops_used(monkeypatch)
    ours, torchs = pair(8, 3, 1, 1, True)
    for batch, size in ((2, 5), (7, 3), (1, 1)):
        x = torch.randn(batch, 8, size, size)
        for module in (ours, torchs):
            module(x).square().sum().backward()
    assert len(used) == 3
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)
