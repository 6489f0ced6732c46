"""The same on a GPU as on the CPU; skipped where there is none."""

import copy

import pytest
import torch
from networks import build, give_branches_weight, walk
from properties import GENERIC
from torch import Tensor, nn

from cifarblocks import blocks

# torch's hard sigmoid on a GPU takes 1/6 in float32 in float64 too.
TOLERANCES = {"GhostBottleneck": 1e-7}
WITHOUT_CHANCE = {"patch_lstm": {"dropout": 0.0}}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def without_gpus():
    """Other tests go without."""


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of a projection of it for the input and every parameter; on the CPU."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    projection = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    gradients = torch.autograd.grad((y * projection).sum(), [x, *module.parameters()], allow_unused=True)
    return [tensor.detach().cpu() for tensor in (y, *gradients) if tensor is not None]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Each tensor within a share of its largest number, or of 1 where that is smaller."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= tolerance * max(1.0, other.abs().max())


@pytest.mark.parametrize("name", blocks.__all__)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blocks_and_their_gradients_are_those_of_the_cpu(name, training, layout):
    case = GENERIC[name]
    module = case.build().double().train(training)
    x = case.input(4, 8, 10, torch.float64)
    expected = results(copy.deepcopy(module), x)
    module, x = module.cuda(), x.cuda()
    if x.ndim == 4:
        module, x = module.to(memory_format=layout), x.to(memory_format=layout)
    assert_near(results(module, x), expected, TOLERANCES.get(name, 1e-10))


@pytest.mark.parametrize("name", blocks.__all__)
def test_blocks_in_bfloat16_are_near_float32(name):
    case = GENERIC[name]
    module, x = case.build().cuda().eval(), case.input(2, 6, 8).cuda()
    expected = module(x)
    with torch.autocast("cuda", torch.bfloat16):
        autocast = module(x)
    pure = copy.deepcopy(module).bfloat16()(x.bfloat16())
    for result in (autocast, pure):
        assert (result.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", walk())
def test_networks_and_their_gradients_are_those_of_the_cpu(name):
    model = give_branches_weight(build(name, **WITHOUT_CHANCE.get(name, {})), 0.1).double()
    model.train(name == "patch_lstm")  # cuDNN has the gradient of an LSTM in training alone
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = results(copy.deepcopy(model), x)
    assert_near(results(model.cuda(), x.cuda()), expected, 1e-8)
