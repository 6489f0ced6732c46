"""Stems, the first layers of networks."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from cifarblocks.blocks.basic import conv_norm


class Stem(NamedTuple):
    """A function that builds a stem, build(in_channels, out_channels), and the stride of its map."""

    build: Callable[[int, int], nn.Module]
    stride: int


def cifar_stem(in_channels: int, out_channels: int) -> nn.Sequential:
    """3×3 convolution, BatchNorm, ReLU at full resolution: (b, in_channels, h, w) → (b, out_channels, h, w)."""
    return conv_norm(in_channels, out_channels, 3, activation=nn.ReLU)


def imagenet_stem(
    in_channels: int, out_channels: int, *, activation: Callable[[], nn.Module] = nn.ReLU, bias: bool = False
) -> nn.Sequential:
    """7×7/2 convolution, BatchNorm, activation, 3×3/2 max pool: (b, c, h, w) → (b, out_channels, ⌈h/4⌉, ⌈w/4⌉)."""
    layers = conv_norm(in_channels, out_channels, 7, 2, activation=activation, bias=bias)
    return layers.append(nn.MaxPool2d(3, 2, padding=1))


STEMS = {"cifar": Stem(cifar_stem, 1), "imagenet": Stem(imagenet_stem, 4)}
