import pytest
import torch
from references import assert_equal_modules
from timm.layers import SplitAttn
from timm.models.resnest import ResNestBottleneck
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


def rename_attention(name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{ATTENTION[first]}.{rest}"


def rename_bottleneck(name: str) -> str:
    if name.startswith("conv2."):
        return "attention." + rename_attention(name.removeprefix("conv2."))
    for theirs, ours in BOTTLENECK.items():
        if name.startswith(theirs + "."):
            return ours + name.removeprefix(theirs)
    raise KeyError(name)


@pytest.mark.parametrize(
    ("channels", "radix", "groups"), [(16, 1, 1), (16, 2, 1), (24, 4, 1), (16, 2, 2), (24, 3, 2), (32, 4, 4)]
)
def test_equals_timm(channels, radix, groups):
    theirs = SplitAttn(channels, radix=radix, groups=groups, norm_layer=nn.BatchNorm2d)
    ours = SplitAttention(channels, radix, groups)
    assert_equal_modules(ours, theirs, torch.randn(3, channels, 5, 4), rename_attention)


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


@pytest.mark.parametrize(
    ("block", "count"),
    [
        (lambda: SplitAttention(64), 43_488),
        (lambda: SplitAttention(64, 2, 2), 21_984),
        (lambda: SplitAttention(64, 1), 41_248),
        (lambda: ResNeStBottleneck(256, 64), 76_896),
    ],
)
def test_has_the_papers_number_of_parameters(block, count):
    assert sum(p.numel() for p in block().parameters()) == count


def test_the_hidden_width_is_not_rounded():
    assert SplitAttention(100).reduce.out_channels == 50


def test_refused_arguments_are_named():
    with pytest.raises(ValueError, match=r"channels must be divisible by groups · radix \(3 · 2\), got 64"):
        SplitAttention(64, groups=3)
    with pytest.raises(ValueError, match=r"must be divisible by groups \(3\), got 32"):
        SplitAttention(6, groups=3)


def replace_norms(module, build):
    """Replace every BatchNorm by exact type, as tools for differential privacy do."""
    for owner in list(module.modules()):
        for name, part in owner.named_children():
            if type(part) is nn.BatchNorm2d:
                setattr(owner, name, build(part.num_features))
    return module


@pytest.mark.parametrize(
    "build", [lambda c: SplitAttention(8), lambda c: ResNeStBottleneck(8, 8, 2)], ids=["attention", "block"]
)
def test_only_a_norm_that_cannot_normalise_refuses_one_image(build):
    x = torch.randn(1, 8, 5, 4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
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
