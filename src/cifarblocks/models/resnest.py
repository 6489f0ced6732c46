"""ResNeSt, Zhang et al. 2020, https://arxiv.org/abs/2004.08955."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.split_attention import ResNeStBottleneck
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier
from cifarblocks.models.resnet import by_output, resnet
from cifarblocks.models.stems import Stem

__all__ = ["resnest14d", "resnest14d_cifar", "resnest26d", "resnest50d", "resnest50d_cifar", "resnest_nano_cifar"]


def resnest(given: Arguments, stem: Stem, *, depths: Sequence[int], width: int = 64) -> Classifier:
    """Deep stem, stages of split-attention bottlenecks of radix 2, global average pool, linear layer.

    The first blocks of stages 2, 3 and 4 stride by average pools: 3×3 after the split attention, 2×2 in the shortcut.
    The first block of stage 1 has no stride and no pool, as in the authors' code.

    Args:
        given: the arguments of the classifier.
        stem: the first layers, for `width` channels.
        depths: blocks of each of the four stages.
        width: bottleneck channels of the first stage; each further stage doubles them.
    """
    widths = [4 * width * 2**stage for stage in range(4)]
    block = partial(by_output, ResNeStBottleneck)
    return resnet(given, block, stem, width, widths=widths, depths=depths, strides=(1, 2, 2, 2))


def small_stem(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Three 3×3 convolutions with BatchNorm and ReLU, the first two of half the channels, the first with the stride."""
    half = out_channels // 2
    return nn.Sequential(
        conv_norm(in_channels, half, 3, stride, activation=nn.ReLU),
        conv_norm(half, half, 3, activation=nn.ReLU),
        conv_norm(half, out_channels, 3, activation=nn.ReLU),
    )


def deep_stem(in_channels: int, out_channels: int) -> nn.Sequential:
    """The stem of ResNet-C, https://arxiv.org/abs/1812.01187: that of stride 2, and a 3×3/2 max pool."""
    return small_stem(in_channels, out_channels, 2).append(nn.MaxPool2d(3, stride=2, padding=1))


DEEP, SMALL = Stem(deep_stem, 4), Stem(small_stem, 1)


@registered_with(Arguments)
def resnest14d(given: Arguments) -> Classifier:
    """ResNeSt-14 of the authors' GluonCV: one block a stage."""
    return resnest(given, DEEP, depths=(1, 1, 1, 1))


@registered_with(Arguments)
def resnest26d(given: Arguments) -> Classifier:
    """ResNeSt-26 of the authors' GluonCV: two blocks a stage."""
    return resnest(given, DEEP, depths=(2, 2, 2, 2))


@registered_with(Arguments)
def resnest50d(given: Arguments) -> Classifier:
    """ResNeSt-50 of the paper, with radix 2 and one group."""
    return resnest(given, DEEP, depths=(3, 4, 6, 3))


@registered_with(Arguments)
def resnest14d_cifar(given: Arguments) -> Classifier:
    """ResNeSt-14 with the deep stem at full resolution, maps of 32, 16, 8 and 4: 810 M multiply-adds at 32×32."""
    return resnest(given, SMALL, depths=(1, 1, 1, 1))


@registered_with(Arguments)
def resnest50d_cifar(given: Arguments) -> Classifier:
    """ResNeSt-50 with the deep stem at full resolution, maps of 32, 16, 8 and 4: 1,667 M multiply-adds at 32×32."""
    return resnest(given, SMALL, depths=(3, 4, 6, 3))


@registered_with(Arguments)
def resnest_nano_cifar(given: Arguments) -> Classifier:
    """ResNeSt-26 at half width, not from a paper: stem and maps of `resnest14d_cifar`, 274 M multiply-adds at 32×32."""
    return resnest(given, SMALL, depths=(2, 2, 2, 2), width=32)
