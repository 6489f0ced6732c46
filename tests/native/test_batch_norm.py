"""Accelerated BatchNorm2d: equal to torch's, by our kernels in training on a CPU."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernels import kernels_on, threads
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

import cifarblocks
from cifarblocks.native import batch_norm
from cifarblocks.native.batch_norm import BatchNormalisation


@pytest.fixture(autouse=True)
def used():
    """The names of the kernels that have run."""
    with kernels_on() as names:
        yield names


def fast(channels, **options):
    return cifarblocks.accelerate(nn.BatchNorm2d(channels, **options))


def pair(channels, dtype=torch.float64):
    """Ours, and torch's with the same parameters and running statistics."""
    torchs = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3)
    nn.init.normal_(torchs.weight)
    nn.init.normal_(torchs.bias)
    torchs.running_mean.normal_()
    torchs.running_var.uniform_(0.5, 2)
    return cifarblocks.accelerate(copy.deepcopy(torchs)).to(dtype), torchs.to(dtype)


def maps(*shape, dtype=torch.float64):
    return (3 * torch.randn(shape, dtype=torch.float64) + 2).to(dtype).to(memory_format=torch.channels_last)


def gradients(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    return [y.detach(), x.grad, *(parameter.grad for parameter in module.parameters()), *module.buffers()]


# Few channels, many pixels of which make a wide row; and more than are in one.
@given(st.one_of(st.integers(1, 70), st.integers(500, 530)), st.integers(1, 9), st.integers(1, 9), st.integers(2, 9))
def test_values_gradients_and_running_statistics_are_those_of_torch(channels, batch, h, w):
    ours, torchs = pair(channels)
    x = maps(batch, channels, h, w)
    for ours_, theirs in zip(gradients(ours, x), gradients(torchs, x), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-10, atol=1e-10)


def test_the_kernels_run_forward_and_backward(used):
    gradients(pair(8)[0], maps(4, 8, 5, 3))
    assert used == ["batch_norm", "batch_norm_backward"]


@pytest.mark.parametrize(("rectified", "added"), [(False, False), (True, False), (True, True)])
def test_gradcheck_and_gradgradcheck(rectified, added):
    module = pair(3)[0]
    x, other = maps(4, 3, 3, 2).requires_grad_(), maps(4, 3, 3, 2).requires_grad_() if added else None

    def function(*tensors):
        running = (torch.zeros(3).double(), torch.ones(3).double())
        return BatchNormalisation.apply(*tensors, *running, 1e-3, 0.3, rectified)

    inputs = (x, other, module.weight, module.bias)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


class Rectified(nn.Module):
    """ReLU of a norm, or of its sum with another map; through `Deferred` if ours."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x, other=None):
        y = self.norm(x)
        return torch.relu(y if other is None else y + other)


class Deferring(Rectified):
    def forward(self, x, other=None):
        return self.norm.computed(x, other, True)


def rectified_gradients(module, x, other):
    """Output, gradients for x, the other map and parameters, and running statistics."""
    x, other = (None if t is None else t.clone().requires_grad_() for t in (x, other))
    y = module(x, other)
    y.backward(torch.linspace(-1, 1, y.numel()).bfloat16().to(y.dtype).view_as(y))
    return [y.detach(), *(t.grad for t in (x, other, *module.parameters()) if t is not None), *module.buffers()]


@given(
    st.one_of(st.integers(1, 70), st.integers(500, 530)),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(2, 9),
    st.booleans(),
)
def test_with_a_relu_and_an_addition_it_is_torchs_three_steps(channels, batch, h, w, added):
    ours, torchs = pair(channels)
    x, other = maps(batch, channels, h, w), maps(batch, channels, h, w) - 2 if added else None
    expected = rectified_gradients(Rectified(torchs), x, other)
    torch.testing.assert_close(rectified_gradients(Deferring(ours), x, other), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("added", [False, True])
def test_with_a_relu_bfloat16_is_float32_rounded_once(added):
    ours = pair(24, torch.float32)[0]
    x, other = maps(8, 24, 7, 5, dtype=torch.bfloat16), maps(8, 24, 7, 5, dtype=torch.bfloat16) if added else None
    exact = rectified_gradients(Deferring(copy.deepcopy(ours)), x.float(), other.float() if added else None)
    y, *rest = rectified_gradients(Deferring(ours), x, other)
    assert torch.equal(y, exact[0].bfloat16())
    ours_ = [tensor.to(theirs.dtype) for tensor, theirs in zip(rest, exact[1:], strict=True)]
    torch.testing.assert_close(ours_, exact[1:], rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("added", [False, True])
def test_the_relu_has_no_gradient_at_zero_and_keeps_what_is_not_a_number(added):
    outcomes, x = [], maps(4, 8, 6, 5)
    x[2, 3, 1, 1] = torch.nan
    other = torch.zeros_like(x) if added else None
    for kind, norm in zip((Deferring, Rectified), pair(8), strict=True):
        nn.init.zeros_(norm.weight[:2])
        nn.init.zeros_(norm.bias[:2])
        outcomes.append(rectified_gradients(kind(norm), x, other))
    torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-10, equal_nan=True)
    assert outcomes[0][0][:, 3].isnan().all()


@pytest.mark.parametrize("added", [False, True])
def test_with_a_relu_any_number_of_threads_gives_the_same_bits(added):
    module, x = Deferring(pair(40, torch.float32)[0]), maps(33, 40, 9, 8, dtype=torch.float32)
    other = maps(33, 40, 9, 8, dtype=torch.float32) if added else None
    single = rectified_gradients(copy.deepcopy(module), x, other)
    with threads(2):
        double = rectified_gradients(module, x, other)
    assert all(map(torch.equal, single, double))


def test_a_gradient_that_is_a_slice_of_channels_is_read_right(used):
    """Slices of a concatenation arrive."""
    outcomes, beside = [], maps(4, 3, 6, 5)
    for kind, norm in zip((Deferring, Rectified), pair(8), strict=True):
        x = beside[:, [0, 1, 2, 0, 1, 2, 0, 1]].contiguous(memory_format=torch.channels_last).requires_grad_()
        y = torch.cat([beside, kind(norm)(x)], dim=1)
        y.backward(beside[:, [0] * 11])
        outcomes.append([y, x.grad, norm.weight.grad])
    assert used == ["batch_norm", "batch_norm_backward"]
    torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-10)


def test_some_gradients_alone():
    """A frozen weight gets no gradient, nor an input that needs none."""
    for frozen in ("x", "other", "weight", "bias"):
        outcomes = []
        for kind, norm in zip((Deferring, Rectified), pair(8), strict=True):
            torch.manual_seed(1)
            tensors = {"x": maps(4, 8, 6, 5), "other": maps(4, 8, 6, 5), "weight": norm.weight, "bias": norm.bias}
            for name, tensor in tensors.items():
                tensor.requires_grad_(name != frozen)
            kind(norm)(tensors["x"], tensors["other"]).square().sum().backward()
            outcomes.append([tensor.grad for name, tensor in tensors.items() if name != frozen])
            assert tensors[frozen].grad is None
        torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-10)


def test_large_maps_of_float32_are_torchs_unless_a_relu_follows(used, monkeypatch):
    monkeypatch.setitem(batch_norm.MOST, torch.float32, 100)
    norm, x = pair(8, torch.float32)[0], maps(4, 8, 6, 5, dtype=torch.float32)
    norm(x)
    assert not used
    Deferring(norm)(x)
    assert used == ["batch_norm"]


def test_a_deferred_map_is_the_plain_one_to_all_but_a_relu(used):
    ours, torchs = pair(8)
    ours.deferring = True
    x, other = maps(4, 8, 6, 5), maps(4, 8, 6, 5)
    expected = torchs(x)
    for result, theirs in (
        (torch.tanh(ours(x)), torch.tanh(expected)),
        (torch.relu(ours(x) + other.contiguous()), torch.relu(expected + other)),
        (torch.sigmoid(ours(x) + other), torch.sigmoid(expected + other)),
        (other + ours(x), other + expected),
        (ours(x) + ours(x), expected + expected),
    ):
        torch.testing.assert_close(result, theirs, rtol=1e-10, atol=1e-10)
    assert len(used) == 6


def test_bfloat16_is_float32_rounded_once():
    ours = pair(24, torch.float32)[0]
    rounded = copy.deepcopy(ours)
    x = maps(8, 24, 7, 5, dtype=torch.bfloat16)
    y, x_gradient, *rest = gradients(rounded, x)
    exact_y, exact_x_gradient, *exact_rest = gradients(ours, x.float())
    assert torch.equal(y, exact_y.bfloat16())
    torch.testing.assert_close(x_gradient.float(), exact_x_gradient, rtol=2**-8, atol=2**-8)
    for ours_, theirs in zip(rest[2:], exact_rest[2:], strict=True):
        assert torch.equal(ours_, theirs)


def test_bfloat16_is_rounded_to_even():
    """1 + 2⁻⁸ lies in the middle of two."""
    module = fast(2)
    nn.init.zeros_(module.weight)
    module.bias.data = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])
    y = module(maps(4, 2, 3, 3, dtype=torch.bfloat16))
    assert y[0, :, 0, 0].tolist() == [1, 1 + 4 * 2**-8]


def test_a_mean_far_from_zero_costs_no_accuracy():
    """Squares about zero would lose all digits of the variance."""
    ours = pair(16, torch.float32)[0]
    x = (torch.randn(8, 16, 16, 16) + 3000).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(ours).double()
    torch.testing.assert_close(ours(x).double(), exact(x.double()), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.running_var.double(), exact.running_var, rtol=1e-5, atol=0)


def test_a_first_pixel_far_from_the_others_costs_no_accuracy():
    """Squares about it would lose half the digits of the variance."""
    ours = pair(16, torch.float32)[0]
    x = torch.randn(8, 16, 32, 32).to(memory_format=torch.channels_last)
    x[0, :, 0, 0] = 100
    exact = copy.deepcopy(ours).double()
    ours(x), exact(x.double())
    torch.testing.assert_close(ours.running_var.double(), exact.running_var, rtol=2e-6, atol=0)


def test_what_is_not_a_number_stays_so_in_its_channel():
    for dtype in (torch.float32, torch.bfloat16):
        ours, x = pair(8, torch.float32)[0], maps(4, 8, 6, 5, dtype=dtype)
        x[2, 3, 1, 1] = torch.nan
        y = ours(x)
        assert y[:, 3].isnan().all()
        assert y[:, [0, 1, 2, 4, 5, 6, 7]].isfinite().all()


def test_any_number_of_threads_gives_the_same_bits():
    module, x = pair(40, torch.float32)[0], maps(33, 40, 9, 8, dtype=torch.float32)
    single = gradients(copy.deepcopy(module), x)
    with threads(2):
        double = gradients(module, x)
    assert all(map(torch.equal, single, double))


@pytest.mark.parametrize(
    "change",
    [
        lambda module, x: (module.eval(), x),
        lambda module, x: (module, x.contiguous()),
        lambda module, x: (module.bfloat16(), x.bfloat16()),
        lambda module, x: (setattr(module, "momentum", None) or module, x),
    ],
    ids=["eval", "contiguous", "pure bfloat16", "cumulative"],
)
def test_the_rest_is_left_to_torch(change, used):
    results = []
    for module in pair(8, torch.float32):
        changed, x = change(module, torch.linspace(-1, 1, 960).view(4, 6, 5, 8).permute(0, 3, 1, 2))
        results.append([changed(x), *changed.buffers()])
    assert not used
    torch.testing.assert_close(*results, rtol=0, atol=0)


def sliced(vector):
    """The same numbers, every second one of a larger memory."""
    return torch.stack([vector, torch.full_like(vector, 1e6)], 1).flatten()[::2]


def replace(name, change):
    """Replace a parameter or a running statistic."""

    def replaced(module):
        module.load_state_dict({**module.state_dict(), name: change(module.state_dict()[name])}, assign=True)

    return replaced


def give(name, vector):
    """Without the checks of `load_state_dict`."""
    return lambda module: setattr(module, name, nn.Parameter(vector) if name in ("weight", "bias") else vector)


VECTORS = ["weight", "bias", "running_mean", "running_var"]
CHANGES = {
    **{f"sliced {name}": replace(name, sliced) for name in VECTORS},
    **{f"double {name}": replace(name, torch.Tensor.double) for name in VECTORS},
    **{f"half {name}": replace(name, torch.Tensor.half) for name in VECTORS},
    **{f"short {name}": give(name, torch.ones(6)) for name in VECTORS},
    **{f"{name} elsewhere": give(name, torch.ones(8, device="meta")) for name in VECTORS},
    "eps -1": lambda module: setattr(module, "eps", -1),
    "eps 0": lambda module: setattr(module, "eps", 0.0),
    "eps nan": lambda module: setattr(module, "eps", torch.nan),
    "momentum": lambda module: setattr(module, "momentum", 1.5),
    "untracked": lambda module: setattr(module, "track_running_stats", False),
    "trained statistics": lambda module: module.running_mean.requires_grad_(),
    "freed weight": lambda module: module.weight.data.untyped_storage().resize_(0),
    "freed variance": lambda module: module.running_var.untyped_storage().resize_(0),
    "other channels": lambda module: module.__init__(6),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_after_accelerate_is_torchs(change, used):
    """Return the values, or the errors that are raised."""
    outcomes, x = [], maps(4, 8, 5, 6, dtype=torch.float32)
    for module in pair(8, torch.float32):
        change(module)
        try:
            outcomes.append([module(x), *module.buffers()])
        except (RuntimeError, ValueError) as error:
            outcomes.append((type(error), str(error)))
    assert not used
    if isinstance(outcomes[1], list):
        torch.testing.assert_close(*outcomes, rtol=1e-6, atol=1e-6, equal_nan=True)
    else:
        assert outcomes[0] == outcomes[1]


def test_stacked_parameters_of_functional_call_are_read_right(used):
    ours, torchs = pair(8, torch.float32)
    stacked = {name: torch.stack([p, p + 5], 1)[:, 0] for name, p in torchs.named_parameters()}
    x = maps(4, 8, 5, 6, dtype=torch.float32)
    results = [torch.func.functional_call(module, stacked, (x,)) for module in (ours, torchs)]
    assert not used
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_what_a_hook_on_saved_tensors_changes_is_torchs(used, rectified, added):
    kinds, results = (Deferring, Rectified) if rectified else (nn.Sequential, nn.Sequential), []
    other = [maps(4, 8, 5, 6)] if rectified and added else []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.contiguous() if t.ndim == 4 else sliced(t)):
        for kind, norm in zip(kinds, pair(8), strict=True):
            x = maps(4, 8, 5, 6).fill_(0.5) + torch.arange(240).view(5, 6, 8).permute(2, 0, 1)
            kind(norm)(x.requires_grad_(), *other).square().sum().backward()
            results.append([x.grad, *(parameter.grad for parameter in norm.parameters())])
    assert used == ["batch_norm"]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_what_is_transformed_or_recorded_is_torchs():
    ours, torchs = pair(4)
    x = maps(3, 4, 5, 2)
    for modules in ((ours, torchs), (Deferring(ours), Rectified(torchs))):
        jacobians = [torch.autograd.functional.jacobian(module, x, vectorize=True) for module in modules]
        torch.testing.assert_close(*jacobians)
    traced = make_fx(lambda x: torch.autograd.grad(ours(x).square().sum(), ours.weight)[0])(x)
    assert any("native_batch_norm" in str(node.target) for node in traced.graph.nodes)
    torch.testing.assert_close(traced(x), torch.autograd.grad(torchs(x).square().sum(), torchs.weight)[0])


def test_it_becomes_a_synchronised_one_as_torchs_does():
    module = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(pair(4)[0]))
    assert type(module[0]) is nn.SyncBatchNorm
