import copy
import subprocess
import sys

import pytest
import torch
from references import assert_equals_formula, convolution, large_kernel_block, large_kernel_unit, randomise
from refusals import refuses
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import cifarblocks
from cifarblocks.blocks import MSCA, MSCABlock, MSCAUnit
from cifarblocks.native.depthwise import NativeDepthwiseConv2d


def msca(x: Tensor, module) -> Tensor:
    a = convolution(x, module.local)
    total = a
    for row, column in module.strips:
        assert row.kernel_size[0] == column.kernel_size[1] == 1
        total = total + convolution(convolution(a, row), column)
    return convolution(total, module.mix) * x


X = torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("strips", [(7, 11, 21), (3, 5)])
def test_msca_is_its_formula(strips):
    module = randomise(MSCA(3, strips)).double()
    assert_equals_formula(module, lambda x: msca(x, module), X)


def unit(x: Tensor, module) -> Tensor:
    return large_kernel_unit(x, module, msca)


def test_unit_is_its_formula():
    module = randomise(MSCAUnit(3)).double()
    assert_equals_formula(module, lambda x: unit(x, module), X)


@pytest.mark.parametrize("training", [True, False])
def test_block_is_its_formula(training):
    module = randomise(MSCABlock(3, 2)).double().train(training)
    assert_equals_formula(module, lambda x: large_kernel_block(x, module, unit, training), X)


def test_the_scales_begin_at_a_hundredth():
    block = MSCABlock(4, 4)
    for scale in (block.attention_scale, block.mlp_scale):
        assert (scale.gamma == torch.tensor(0.01)).all()


class Convolutions(TorchDispatchMode):
    """Records the weights of all convolutions, forward and backward."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "convolution" in str(function):
            self.weights += [x for x in args[:3] if isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] == 1]
        return function(*args, **(kwargs or {}))


def in_half(module, x, pure):
    """Output, in channels_last and bfloat16, pure or by autocast; and every weight that was convolved with."""
    x = x.to(memory_format=torch.channels_last)
    module = copy.deepcopy(module).to(memory_format=torch.channels_last)
    if pure:
        module, x = module.bfloat16(), x.bfloat16()
    with Convolutions() as seen:
        with torch.autocast("cpu", torch.bfloat16, enabled=not pure):
            y = module(x.requires_grad_())
        y.float().square().sum().backward()
    return y, module, seen.weights


@pytest.mark.parametrize("pure", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_narrow_strips_are_never_convolved_in_half_precision(pure, fast):
    """On processors with AMX torch 2.14 would not return, neither forward nor backward."""
    module, x = randomise(MSCA(16)), torch.randn(2, 16, 32, 32)
    expected = module(x)
    hooked = []
    module.strips[2][0].register_forward_hook(lambda *_: hooked.append(1))
    y, module, weights = in_half(cifarblocks.accelerate(module) if fast else module, x, pure)
    assert hooked
    assert type(module.strips[2][0]) is (NativeDepthwiseConv2d if fast else nn.Conv2d)
    dtypes = {weight.dtype for weight in weights if 21 in weight.shape[2:]}
    assert dtypes == {torch.float32}
    assert torch.bfloat16 in {weight.dtype for weight in weights}
    assert y.dtype == (torch.bfloat16 if pure else torch.float32)
    assert module.strips[2][0].weight.grad.dtype == module.strips[2][0].weight.dtype
    torch.testing.assert_close(y.float(), expected, rtol=5e-2, atol=5e-2 * expected.abs().max().item())


def test_wide_maps_of_many_channels_stay_in_half_precision():
    _, _, weights = in_half(MSCA(24), torch.randn(2, 24, 8, 8), pure=False)
    assert {weight.dtype for weight in weights} == {torch.bfloat16}


def test_a_traced_graph_refuses_what_would_hang(monkeypatch):
    graph, x = torch.fx.symbolic_trace(MSCA(16)), torch.randn(1, 16, 8, 8)
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        assert graph(x).shape == x.shape
        with torch.autocast("cpu", torch.bfloat16):
            if amx:
                with refuses(RuntimeError, "x", "float32"):
                    graph(x)
            else:
                assert graph(x).shape == x.shape


@pytest.mark.slow
def test_a_step_on_wide_maps_returns():
    """Run in a process of its own, because a failure is a convolution that never returns."""
    code = """
import torch, cifarblocks
torch.set_num_threads(1)
for size in (32, 64):
    for pure in (True, False):
        module = cifarblocks.accelerate(cifarblocks.blocks.MSCA(16).to(memory_format=torch.channels_last))
        x = torch.randn(2, 16, size, size).to(memory_format=torch.channels_last)
        if pure:
            module, x = module.bfloat16(), x.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=not pure):
            y = module(x)
        y.float().square().mean().backward()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
