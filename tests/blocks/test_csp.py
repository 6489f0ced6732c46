from functools import partial

import pytest
import torch
from references import assert_equal_modules
from timm.models import cspnet
from torch import nn

from cifarblocks.blocks import CSPBottleneck, CSPStage, DarknetBlock

STAGE = {
    "conv_down": "down",
    "conv_exp": "split",
    "conv_transition_b": "branch_transition",
    "conv_transition": "transition",
}
RESNET = {"conv1": "reduce", "conv2": "conv", "conv3": "expand"}
DARKNET = {"conv1": "reduce", "conv2": "conv"}
PARTS = {"conv": "0", "bn": "1"}


def rename(names: dict[str, str], name: str) -> str:
    *places, part, tensor = name.split(".")
    return ".".join([*[names.get(place, place) for place in places], PARTS[part], tensor])


def theirs(in_channels, out_channels, stride, depth, block, **arguments):
    return cspnet.CrossStage(
        in_channels,
        out_channels,
        stride,
        1,
        depth,
        block_fn=block,
        act_layer=partial(nn.LeakyReLU, 0.1),
        norm_layer=nn.BatchNorm2d,
        **arguments,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_the_resnet_kind_equals_timm(stride):
    reference = theirs(6, 10, stride, 2, cspnet.BottleneckBlock, bottle_ratio=0.5, expand_ratio=2.0, cross_linear=True)
    assert_equal_modules(
        CSPStage(6, 10, 2, stride), reference, torch.randn(2, 6, 7, 5), partial(rename, STAGE | RESNET)
    )


def test_the_resnext_kind_equals_timm():
    reference = theirs(
        8, 16, 2, 2, cspnet.BottleneckBlock, groups=4, block_ratio=0.5, bottle_ratio=1.0, cross_linear=True
    )
    block = partial(CSPBottleneck, hidden_channels=8, groups=4)
    ours = CSPStage(8, 16, 2, 2, branch_channels=8, block=block, down_groups=4)
    assert_equal_modules(ours, reference, torch.randn(2, 8, 7, 5), partial(rename, STAGE | RESNET))


def darknet_stage(in_channels, out_channels, depth):
    return CSPStage(
        in_channels,
        out_channels,
        depth,
        2,
        branch_channels=out_channels // 2,
        block=DarknetBlock,
        down_channels=out_channels,
        split_activation=partial(nn.LeakyReLU, 0.1),
    )


def test_the_darknet_kind_equals_timm():
    reference = theirs(6, 12, 2, 2, cspnet.DarkBlock, block_ratio=0.5, bottle_ratio=1.0, down_growth=True)
    x = torch.randn(2, 6, 7, 5)
    assert_equal_modules(darknet_stage(6, 12, 2), reference, x, partial(rename, STAGE | DARKNET))


def test_the_blocks_alone_equal_timm():
    parts = {"act_layer": partial(nn.LeakyReLU, 0.1), "norm_layer": nn.BatchNorm2d}
    x = torch.randn(2, 6, 7, 5)
    bottleneck = cspnet.BottleneckBlock(6, 6, bottle_ratio=0.5, **parts)
    assert_equal_modules(CSPBottleneck(6), bottleneck, x, partial(rename, RESNET))
    dark = cspnet.DarkBlock(6, 6, bottle_ratio=0.5, **parts)
    assert_equal_modules(DarknetBlock(6, 3), dark, x, partial(rename, DARKNET))


def test_each_block_has_its_own_drop_path():
    stage = CSPStage(4, 4, 3, drop_path=[0.0, 0.1, 0.2])
    assert [block.drop_path.rate for block in stage.blocks] == [0.0, 0.1, 0.2]
