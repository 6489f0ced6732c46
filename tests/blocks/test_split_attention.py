from functools import partial

import pytest
import torch
from references import assert_equal_modules, rename_with
from refusals import refuses
from timm.layers import SplitAttn
from timm.models.resnest import ResNestBottleneck
from tools import replace_norms
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from cifarblocks.blocks import ResNeStBottleneck, SplitAttention

ATTENTION = {"conv": "splits.0", "bn0": "splits.1", "fc1": "reduce", "bn1": "norm", "fc2": "expand"}
BOTTLENECK = {
    "conv1": "reduce.0",
    "bn1": "reduce.1",
    "conv3": "expand.0",
    "bn3": "expand.1",
    "downsample.1": "shortcut.1.0",
    "downsample.2": "shortcut.1.1",
}


def rename_bottleneck(name: str) -> str:
    if name.startswith("conv2."):
        return "attention." + rename_with(ATTENTION, name.removeprefix("conv2."))
    return rename_with(BOTTLENECK, name)


@pytest.mark.parametrize(
    ("channels", "radix", "groups"), [(16, 1, 1), (16, 2, 1), (24, 4, 1), (16, 2, 2), (24, 3, 2), (32, 4, 4)]
)
def test_equals_timm(channels, radix, groups):
    theirs = SplitAttn(channels, radix=radix, groups=groups, norm_layer=nn.BatchNorm2d)
    ours = SplitAttention(channels, radix, groups)
    assert_equal_modules(ours, theirs, torch.randn(3, channels, 5, 4), partial(rename_with, ATTENTION))


@pytest.mark.parametrize(
    ("c_in", "stride", "radix", "groups", "base_width"),
    [(32, 1, 2, 1, 64), (24, 1, 2, 1, 64), (32, 2, 2, 1, 64), (32, 2, 4, 2, 64), (24, 2, 1, 1, 64), (32, 1, 2, 2, 32)],
)
def test_bottleneck_equals_timm(c_in, stride, radix, groups, base_width):
    downsample = None
    if stride > 1 or c_in != 32:
        downsample = nn.Sequential(
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(c_in, 32, 1, bias=False),
            nn.BatchNorm2d(32),
        )
    theirs = ResNestBottleneck(
        c_in,
        8,
        stride,
        downsample,
        radix=radix,
        cardinality=groups,
        base_width=base_width,
        avd=True,
        norm_layer=nn.BatchNorm2d,
    )
    ours = ResNeStBottleneck(c_in, 8, stride, radix, groups, base_width=base_width)
    assert_equal_modules(ours, theirs, torch.randn(3, c_in, 7, 4), rename_bottleneck)


def test_the_hidden_width_is_not_rounded():
    assert SplitAttention(100).reduce.out_channels == 50


@pytest.mark.parametrize(
    "build", [lambda c: SplitAttention(8), lambda c: ResNeStBottleneck(8, 8, 2)], ids=["attention", "block"]
)
def test_only_a_norm_that_cannot_normalise_refuses_one_image(build):
    x = torch.randn(1, 8, 5, 4)
    with refuses(ValueError, "channel"):
        build(8).train()(x)
    frozen = build(8).train()
    for part in frozen.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    assert frozen(x).isfinite().all()
    for norm in (lambda c: nn.GroupNorm(4, c), FrozenBatchNorm2d, lambda c: nn.Identity()):
        assert replace_norms(build(8).train(), norm)(x).isfinite().all()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(build(8))
    assert not [part for part in converted.modules() if type(part) is nn.BatchNorm2d]
    assert converted.eval()(x).isfinite().all()
