import pytest
import torch
from references import assert_equal_modules
from timm.models import ghostnet as reference
from torch import nn

from cifarblocks.blocks import GhostBottleneck, GhostModule
from cifarblocks.blocks.ghost import CopyModule

MODULE = {"primary_conv": "primary", "cheap_operation": "cheap"}
BOTTLENECK = {
    "ghost1": "expand",
    "ghost2": "project",
    "conv_dw": "depthwise.0",
    "bn_dw": "depthwise.1",
    "se.conv_reduce": "gate.reduce",
    "se.conv_expand": "gate.expand",
    "shortcut.0": "shortcut.0.0",
    "shortcut.1": "shortcut.0.1",
    "shortcut.2": "shortcut.1.0",
    "shortcut.3": "shortcut.1.1",
}


def rename(name: str) -> str:
    for theirs, ours in BOTTLENECK.items():
        if name.startswith(theirs + "."):
            name = ours + name.removeprefix(theirs)
            break
    for theirs, ours in MODULE.items():
        name = name.replace(theirs, ours)
    return name


@pytest.mark.parametrize(
    ("c_in", "c_out", "kernel_size", "ratio", "stride"),
    [(6, 8, 1, 2, 1), (6, 9, 1, 2, 1), (6, 10, 3, 3, 2), (5, 7, 1, 4, 1), (4, 16, 1, 2, 1)],
)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
def test_module_equals_timm(c_in, c_out, kernel_size, ratio, stride, activation):
    theirs = reference.GhostModule(c_in, c_out, kernel_size, ratio, 3, stride, act_layer=activation)
    ours = GhostModule(c_in, c_out, kernel_size, ratio, stride=stride, activation=activation)
    assert_equal_modules(ours, theirs, torch.randn(2, c_in, 7, 4), rename)


@pytest.mark.parametrize(
    ("c_in", "hidden", "c_out", "kernel_size", "stride", "se_ratio"),
    [(8, 16, 8, 3, 1, 0.0), (8, 20, 12, 5, 2, 0.25), (8, 30, 12, 3, 1, 0.25), (8, 16, 8, 5, 2, 0.0)],
)
def test_bottleneck_equals_timm(c_in, hidden, c_out, kernel_size, stride, se_ratio):
    theirs = reference.GhostBottleneck(c_in, hidden, c_out, kernel_size, stride, se_ratio=se_ratio)
    ours = GhostBottleneck(c_in, hidden, c_out, kernel_size, stride, se_ratio)
    assert_equal_modules(ours, theirs, torch.randn(2, c_in, 7, 4), rename)


def test_ratio_1_is_a_plain_convolution():
    module = GhostModule(6, 8, 3, ratio=1, stride=2)
    plain = nn.Sequential(nn.Conv2d(6, 8, 3, 2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    assert_equal_modules(module, plain, torch.randn(2, 6, 7, 4), lambda name: f"primary.{name}")


@torch.no_grad()
@pytest.mark.parametrize(("out_channels", "stride"), [(8, 1), (9, 2)])
def test_copies_are_a_ghost_module_whose_kernels_keep_each_channel(out_channels, stride):
    ghost = GhostModule(6, out_channels, 3, stride=stride).double().eval()
    ghost.cheap[0].weight.zero_()[..., 1, 1] = (1 + ghost.cheap[1].eps) ** 0.5
    copies = CopyModule(6, out_channels, 3, stride=stride).double().eval()
    copies.primary.load_state_dict(ghost.primary.state_dict())
    x = torch.randn(2, 6, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(copies(x), ghost(x), rtol=1e-12, atol=1e-12)


def test_copies_of_a_third_of_the_channels_come_in_turn():
    module = CopyModule(2, 7, ratio=3).eval()
    a, b, c = module.primary(torch.ones(1, 2, 4, 4)).unbind(1)
    assert torch.equal(module(torch.ones(1, 2, 4, 4)), torch.stack([a, b, c, a, b, c, a], dim=1))
