"""Accelerated depthwise convolutions: equal to torch's, with gradients by our kernels."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels import kernels_on, threads
from properties import GENERIC
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import cifarblocks
from cifarblocks.blocks.basic import depthwise_conv
from cifarblocks.native import depthwise


@pytest.fixture(autouse=True)
def used():
    """The names of the kernels that have run."""
    with kernels_on() as names:
        yield names


def fast(*sizes, **options):
    return cifarblocks.accelerate(depthwise_conv(*sizes, **options))


def pair(channels, kernel_size, stride, dilation, bias):
    """Ours, and torch's with the same weights."""
    torchs = depthwise_conv(channels, kernel_size, stride, dilation=dilation, bias=bias)
    return cifarblocks.accelerate(copy.deepcopy(torchs)), torchs


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
    module = fast(3, (3, 5), stride, dilation=dilation).double()
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
    module, x = fast(70, 5), torch.randn(33, 70, 9, 8)
    single = gradients(module, x)
    module.zero_grad()
    with threads(2):
        double = gradients(module, x)
    assert torch.equal(single[1], double[1])


def test_it_is_absent_in_inference_and_under_transforms(used):
    module, x = fast(8, 3), torch.randn(2, 8, 5, 4)
    weight, bias = module.weight.detach(), module.bias.detach()

    def loss(weight):
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,)).square().sum()

    functional = torch.func.grad(loss)(weight)
    with torch.no_grad():
        module(x)
    assert not used
    torch.testing.assert_close(functional, gradient_of(module, x))
    assert used == ["depthwise_gradients"]


def test_one_batch_after_another_of_another_size(used):
    ours, torchs = pair(8, 3, 1, 1, True)
    for batch, size in ((2, 5), (7, 3), (1, 1)):
        x = torch.randn(batch, 8, size, size)
        for module in (ours, torchs):
            module(x).square().sum().backward()
    assert len(used) == 3
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)


@pytest.mark.parametrize(
    "weight",
    [
        lambda: torch.randn(3, 5, 1, 8).permute(3, 2, 0, 1),  # as TensorFlow stores it
        lambda: torch.randn(8, 1, 5, 3).transpose(2, 3),
        lambda: torch.randn(8, 1, 3, 5).to(memory_format=torch.channels_last),
    ],
)
def test_a_weight_of_any_strides_has_the_gradient_of_torch(weight):
    ours, torchs = pair(8, (3, 5), 1, 1, True)
    shared = weight()
    ours.weight, torchs.weight = nn.Parameter(shared), nn.Parameter(shared.contiguous())
    x = torch.randn(4, 8, 6, 7)
    for ours_, theirs in zip(gradients(ours, x), gradients(torchs, x), strict=True):
        torch.testing.assert_close(ours_, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("dilation", [1, 2])
def test_autocast_is_that_of_torch(dtype, precision, dilation):
    """It leaves float64 alone, and computes in float16 where asked to."""
    ours, torchs = (module.to(precision) for module in pair(8, 3, 1, dilation, True))
    x = torch.randn(2, 8, 6, 7, dtype=precision)
    with torch.autocast("cpu", dtype):
        y, expected = ours(x), torchs(x)
    assert y.dtype == expected.dtype
    for result in (y, expected):
        result.float().square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad, rtol=2e-2, atol=2e-1)


def test_what_is_recorded_or_transformed_is_torchs():
    ours, torchs = pair(4, 3, 1, 1, True)
    x = torch.randn(2, 4, 5, 6)
    jacobians = [torch.autograd.functional.jacobian(module, x, vectorize=True) for module in (ours, torchs)]
    torch.testing.assert_close(*jacobians)
    tangent = torch.randn_like(x)
    with forward_ad.dual_level():
        duals = [forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent))).tangent for module in (ours, torchs)]
    torch.testing.assert_close(*duals)

    traced = make_fx(lambda x: torch.autograd.grad(ours(x).square().sum(), ours.weight)[0])(x)
    torch.testing.assert_close(traced(x), gradient_of(torchs, x))
    counts = []
    for module in (ours, torchs):
        with FlopCounterMode(display=False) as counter:
            module(x).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    with FakeTensorMode(allow_non_fake_inputs=True):
        ours(x).sum().backward()
    single = torch.randn(4, 5, 6)
    torch.testing.assert_close(ours(single), torchs(single))


def gradient_of(module, x):
    return torch.autograd.grad(module(x).square().sum(), module.weight)[0]


HOLDERS = sorted(
    name
    for name, case in GENERIC.items()
    if any(type(part) is depthwise.NativeDepthwiseConv2d for part in cifarblocks.accelerate(case.build()).modules())
)


@pytest.mark.parametrize("name", HOLDERS)
def test_blocks_that_hold_one_train_as_without_the_kernels(name, used):
    """The other tests see them without."""
    case = GENERIC[name]
    plain, x = case.build().double(), case.input(4, 9, 7, torch.float64)
    expected = gradients(plain, x)
    plain.zero_grad()
    assert not used
    torch.testing.assert_close(gradients(cifarblocks.accelerate(plain), x), expected, rtol=1e-9, atol=1e-9)
    assert "depthwise_gradients" in used


def outcome(module, x):
    try:
        return gradients(module, x)
    except (RuntimeError, ValueError) as error:
        return type(error), str(error)


CHANGES = {
    "circular": lambda module: setattr(module, "padding_mode", "circular"),
    "dense": lambda module: setattr(module, "groups", 1),
    "dilation": lambda module: setattr(module, "dilation", (2, 1)),
    "unpadded": lambda module: setattr(module, "padding", (0, 0)),
    "wider": lambda module: setattr(module, "weight", nn.Parameter(torch.randn(8, 1, 7, 7))),
    "even": lambda module: setattr(module, "weight", nn.Parameter(torch.randn(8, 1, 4, 4))),
    "doubled": lambda module: setattr(module, "weight", nn.Parameter(torch.randn(16, 1, 3, 5))),
    "float64 bias": lambda module: setattr(module, "bias", nn.Parameter(torch.randn(8).double())),
    "float64": lambda module: module.double(),
    "freed": lambda module: module.weight.data.untyped_storage().resize_(0),
}


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_after_accelerate_is_torchs(change, dilation):
    outcomes, x = [], torch.randn(2, 8, 6, 7)
    for module in pair(8, (3, 5), 1, dilation, True):
        torch.manual_seed(2)
        change(module)
        outcomes.append(outcome(module, x))
    if isinstance(outcomes[1], list):
        torch.testing.assert_close(*outcomes)
    else:
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "hook",
    [
        torch.Tensor.double,
        lambda saved: saved[:1],
        lambda saved: saved[..., :1],
    ],
    ids=["dtype", "channels", "size"],
)
@pytest.mark.parametrize("for_x", [True, False])  # without, the gradient of the weight is the first thing computed
def test_what_a_hook_on_saved_tensors_changes_is_never_read_past_its_end(hook, for_x, used):
    module, x = fast(8, 3), torch.randn(4, 8, 6, 7, requires_grad=for_x)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, hook):
        y = module(x)
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            y.backward(torch.ones_like(y))
    assert not used
