import pytest
import torch
from references import randomise
from test_msca import X, assert_equals_formula, block, depthwise, gelu, pointwise, shifted
from torch import Tensor

from cifarblocks.blocks import LSKAttention, LSKBlock, LSKUnit


def dense(x: Tensor, conv) -> Tensor:
    """A convolution as an explicit sum over its kernel."""
    _, _, height, width = conv.weight.shape
    y = 0
    for u in range(height):
        for v in range(width):
            moved = shifted(x, u - height // 2, v - width // 2)
            y = y + torch.einsum("oc,bchw->bohw", conv.weight[:, :, u, v], moved)
    return y + conv.bias.view(-1, 1, 1)


def lsk(x: Tensor, module) -> Tensor:
    u1 = depthwise(x, module.small)
    u2 = depthwise(u1, module.large, dilation=3)
    v1, v2 = pointwise(u1, module.reduce_small), pointwise(u2, module.reduce_large)
    channels = [*v1.unbind(1), *v2.unbind(1)]
    mean = sum(channels) / len(channels)
    largest = channels[0]
    for channel in channels[1:]:
        largest = torch.maximum(largest, channel)
    gates = 1 / (1 + torch.exp(-dense(torch.stack([mean, largest], 1), module.select)))
    return x * pointwise(gates[:, 0:1] * v1 + gates[:, 1:2] * v2, module.expand)


def unit(x: Tensor, module) -> Tensor:
    first, _, attention, last = module.branch
    return pointwise(lsk(gelu(pointwise(x, first)), attention), last) + x


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_attention_is_its_formula(channels):
    module = randomise(LSKAttention(channels)).double()
    x = torch.randn(2, channels, 6, 5, dtype=torch.float64)
    assert_equals_formula(module, lambda x: lsk(x, module), x)


def test_unit_is_its_formula():
    module = randomise(LSKUnit(3)).double()
    assert_equals_formula(module, lambda x: unit(x, module), X)


@pytest.mark.parametrize("training", [True, False])
def test_block_is_its_formula(training):
    module = randomise(LSKBlock(3, 2)).double().train(training)
    assert_equals_formula(module, lambda x: block(x, module, unit, training), X)


@pytest.mark.parametrize(
    ("module", "count"), [(LSKAttention(64), 11_334), (LSKUnit(64), 19_654), (LSKBlock(64, 8), 91_270)]
)
def test_has_the_papers_number_of_parameters(module, count):
    assert sum(p.numel() for p in module.parameters()) == count


def test_sees_23_by_23_pixels():
    x = torch.zeros(1, 2, 31, 31, dtype=torch.float64)
    x[0, 0, 15, 15] = 1
    module = randomise(LSKAttention(2)).double()
    with torch.no_grad():
        module.small.bias.zero_()
        module.large.bias.zero_()
        seen = (module.large(module.small(x))[0, 0] != 0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [23, 23]


def test_refuses_one_channel():
    with pytest.raises(ValueError, match="channels must be at least 2, got 1"):
        LSKAttention(1)
