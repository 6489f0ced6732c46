import pytest
import torch
import torch.nn.functional as F
from references import assert_equal_modules, assert_equals_formula, batch_norm, convolution, randomise
from torch import nn
from torchvision.models import resnet as reference

from cifarblocks.blocks import ECA, BasicBlock, Bottleneck, PaddingShortcut, PreActBlock, ProjectionShortcut


def rename(name: str) -> str:
    for theirs, ours in (("downsample.0", "shortcut.conv"), ("downsample.1", "shortcut.norm"), ("bn", "norm")):
        name = name.replace(theirs, ours)
    return name


def downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(16, 16, 1), (16, 24, 1), (16, 24, 2), (16, 16, 2)])
def test_basic_block_equals_torchvision(c_in, c_out, stride):
    theirs = reference.BasicBlock(c_in, c_out, stride, downsample(c_in, c_out, stride))
    assert_equal_modules(BasicBlock(c_in, c_out, stride), theirs, torch.randn(2, c_in, 7, 4), rename)


@pytest.mark.parametrize(
    ("c_in", "width", "stride", "groups", "base_width"),
    [(32, 8, 1, 1, 64), (12, 8, 2, 1, 64), (16, 8, 1, 4, 16), (16, 8, 2, 2, 24)],
)
def test_bottleneck_equals_torchvision(c_in, width, stride, groups, base_width):
    theirs = reference.Bottleneck(c_in, width, stride, downsample(c_in, 4 * width, stride), groups, base_width)
    ours = Bottleneck(c_in, width, stride, groups, base_width)
    assert_equal_modules(ours, theirs, torch.randn(2, c_in, 7, 4), rename)


@pytest.mark.parametrize("position", [1, 2, 3])
def test_attention_stands_where_it_was_asked(position):
    block = BasicBlock(6, 6, attention=ECA, attention_position=position).eval()
    gate = getattr(block, f"attention{position}")
    assert isinstance(gate, ECA)
    x = torch.randn(2, 6, 5, 4)
    y = block.norm1(block.conv1(x))
    y = F.relu(gate(y) if position == 1 else y)
    y = block.norm2(block.conv2(y))
    y = (gate(y) if position == 2 else y) + x
    expected = F.relu(gate(y) if position == 3 else y)
    torch.testing.assert_close(block(x), expected)


def test_attention_of_a_bottleneck_gates_the_branch_before_the_addition():
    class Nothing(nn.Module):
        def __init__(self, channels):
            super().__init__()
            assert channels == 24

        def forward(self, x):
            return 0 * x

    block = Bottleneck(24, 6, attention=Nothing)
    x = torch.randn(2, 24, 5, 4)
    assert torch.equal(block(x), F.relu(x))


@pytest.mark.parametrize(("c_out", "stride"), [(3, 1), (4, 1), (4, 2), (3, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_pre_activation_block_is_its_formula(c_out, stride, training):
    block = randomise(PreActBlock(3, c_out, stride)).double().train(training)

    def formula(x):
        y = batch_norm(x, block.norm1, training).clamp(min=0)
        shortcut = x if (c_out, stride) == (3, 1) else convolution(y, block.shortcut, stride)
        y = batch_norm(convolution(y, block.conv1, stride), block.norm2, training).clamp(min=0)
        return shortcut + convolution(y, block.conv2)

    assert_equals_formula(block, formula, torch.randn(2, 3, 5, 4, dtype=torch.float64))


def test_padding_shortcut_pads_on_both_sides_and_takes_every_second_pixel():
    x = torch.randn(2, 3, 5, 4)
    y = PaddingShortcut(3, 8, 2)(x)
    assert torch.equal(y[:, 2:5], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() == y[:, 5:].abs().sum() == 0


def test_projection_shortcut_is_the_identity_where_the_shape_stays():
    x = torch.randn(2, 3, 5, 4)
    assert ProjectionShortcut(3, 3)(x) is x
