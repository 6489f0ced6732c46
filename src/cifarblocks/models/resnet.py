"""ResNet, He et al. 2016, https://arxiv.org/abs/1512.03385, and ECA-Net, https://arxiv.org/abs/1910.03151."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from torch import nn

from cifarblocks.blocks.checks import choose, require_int
from cifarblocks.blocks.eca import ECA
from cifarblocks.blocks.residual import Attention, BasicBlock, Bottleneck, PaddingShortcut, ProjectionShortcut
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.attentions import AttentionArguments, find_attention
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_resnet
from cifarblocks.models.stages import build_stages, stage_info
from cifarblocks.models.stems import STEMS, Stem

__all__ = [
    "eca_resnet_20", "eca_resnet_32", "eca_resnet_56", "resnet_18", "resnet_20", "resnet_32", "resnet_34",
    "resnet_44", "resnet_50", "resnet_56", "resnet_110",
]  # fmt: skip

SHORTCUTS = {"A": PaddingShortcut, "B": ProjectionShortcut}  # the names of section 3.3


@dataclass(frozen=True, kw_only=True)
class ShortcutArguments(Arguments):
    """Arguments of all residual networks for CIFAR."""

    shortcut: Annotated[str, '"B", a projection where the shape changes, or "A", zeros for the new channels.'] = "B"


@dataclass(frozen=True, kw_only=True)
class PositionArguments(ShortcutArguments):
    """Arguments of residual networks for CIFAR with an attention module in each block."""

    position: Annotated[int, "Where the attention is: 1 after the first BatchNorm, 2 the second, 3 the addition."] = 2


@dataclass(frozen=True, kw_only=True)
class ResNetArguments(AttentionArguments, PositionArguments):
    """Arguments of `resnet_20` to `resnet_110`."""


@dataclass(frozen=True, kw_only=True)
class KernelArguments(ShortcutArguments):
    """Arguments of networks with ECA in each block, at a fixed position."""

    kernel_size: Annotated[int | None, "Kernel of ECA, odd; None is the adaptive rule."] = 3


@dataclass(frozen=True, kw_only=True)
class ECAArguments(KernelArguments, PositionArguments):
    """Arguments of `eca_resnet_20` to `eca_resnet_56`."""


@dataclass(frozen=True, kw_only=True)
class ImageNetArguments(AttentionArguments):
    """Arguments of `resnet_18` to `resnet_50`."""

    stem: Annotated[str, '"cifar", a 3×3 convolution at full resolution, or "imagenet", the paper\'s.'] = "cifar"


def resnet(
    given: Arguments,
    block: Callable[..., nn.Module],
    stem: Stem,
    stem_channels: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
) -> Classifier:
    """Stem, stages of residual blocks, global average pool, linear layer.

    Args:
        given: the arguments of the classifier.
        block: called as block(in_channels, out_channels, stride, drop_path=rate).
        stem: the first layers, one of `STEMS`.
        stem_channels: output channels of the stem.
        widths: output channels of each stage.
        depths: blocks of each stage.
        strides: stride of the first block of each stage.
    """
    return Classifier(
        stem.build(given.in_channels, stem_channels),
        build_stages([block] * len(widths), stem_channels, widths, depths, strides, given.drop_path),
        PooledHead(widths[-1], given.num_classes, given.dropout),
        stage_info(widths, strides, stem.stride),
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_resnet,
    )


def cifar_resnet(given: Arguments, depth: int, block: Callable[..., nn.Module] = BasicBlock) -> Classifier:
    """The 6n + 2 layers of section 4.2: 3×3 stem of 16 channels, n blocks each of 16, 32 and 64 channels."""
    depths = ((depth - 2) // 6,) * 3
    return resnet(given, block, STEMS["cifar"], 16, widths=(16, 32, 64), depths=depths, strides=(1, 2, 2))


def gated_resnet(given: PositionArguments, depth: int, attention: Attention) -> Classifier:
    """Build the network of `depth` layers with a module attention(channels) in each block.

    Raises:
        ValueError: if `position` or `shortcut` is not one of the choices.
    """
    require_int(1, position=given.position)
    if given.position > 3:
        raise ValueError(f"position must be 1, 2 or 3, got {given.position}")
    shortcut = choose(SHORTCUTS, shortcut=given.shortcut)
    block = partial(BasicBlock, attention=attention, attention_position=given.position, shortcut=shortcut)
    return cifar_resnet(given, depth, block)


def plain_resnet(given: ResNetArguments, depth: int) -> Classifier:
    """Build the network of `depth` layers with an attention module by name.

    Raises:
        ValueError: if `attention` is not a name of `list_attentions`.
    """
    return gated_resnet(given, depth, find_attention(given.attention))


def imagenet_resnet(
    given: ImageNetArguments, block: Callable[..., nn.Module], depths: Sequence[int], expansion: int = 1
) -> Classifier:
    """Build a network of table 1; its stages have `expansion` times 64, 128, 256 and 512 output channels.

    Raises:
        ValueError: if `stem` is not one of `STEMS`, or `attention` not a name of `list_attentions`.
    """
    widths = [width * expansion for width in (64, 128, 256, 512)]
    block = partial(block, attention=find_attention(given.attention))
    return resnet(given, block, choose(STEMS, stem=given.stem), 64, widths=widths, depths=depths, strides=(1, 2, 2, 2))


def by_output(
    block: Callable[..., nn.Module], in_channels: int, out_channels: int, stride: int, **others: Any
) -> nn.Module:
    """Build a bottleneck from its output channels, instead of its bottleneck channels."""
    return block(in_channels, out_channels // 4, stride, **others)


@registered_with(ResNetArguments)
def resnet_20(given: ResNetArguments) -> Classifier:
    """ResNet-20 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return plain_resnet(given, 20)


@registered_with(ResNetArguments)
def resnet_32(given: ResNetArguments) -> Classifier:
    """ResNet-32 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return plain_resnet(given, 32)


@registered_with(ResNetArguments)
def resnet_44(given: ResNetArguments) -> Classifier:
    """ResNet-44 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return plain_resnet(given, 44)


@registered_with(ResNetArguments)
def resnet_56(given: ResNetArguments) -> Classifier:
    """ResNet-56 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return plain_resnet(given, 56)


@registered_with(ResNetArguments)
def resnet_110(given: ResNetArguments) -> Classifier:
    """ResNet-110 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return plain_resnet(given, 110)


@registered_with(ECAArguments)
def eca_resnet_20(given: ECAArguments) -> Classifier:
    """ResNet-20 with ECA, https://arxiv.org/abs/1910.03151, of kernel 3 after the second BatchNorm of every block."""
    return gated_resnet(given, 20, partial(ECA, kernel_size=given.kernel_size))


@registered_with(ECAArguments, kernel_size=5)
def eca_resnet_32(given: ECAArguments) -> Classifier:
    """ResNet-32 with ECA, https://arxiv.org/abs/1910.03151, of kernel 5 after the second BatchNorm of every block."""
    return gated_resnet(given, 32, partial(ECA, kernel_size=given.kernel_size))


@registered_with(ECAArguments, kernel_size=None)
def eca_resnet_56(given: ECAArguments) -> Classifier:
    """ResNet-56 with ECA, https://arxiv.org/abs/1910.03151, of the adaptive kernel after the second BatchNorm."""
    return gated_resnet(given, 56, partial(ECA, kernel_size=given.kernel_size))


@registered_with(ImageNetArguments)
def resnet_18(given: ImageNetArguments) -> Classifier:
    """ResNet-18 (table 1) with a 3×3 stem for small images; `stem="imagenet"` is the paper's."""
    return imagenet_resnet(given, BasicBlock, depths=(2, 2, 2, 2))


@registered_with(ImageNetArguments)
def resnet_34(given: ImageNetArguments) -> Classifier:
    """ResNet-34 (table 1) with a 3×3 stem for small images; `stem="imagenet"` is the paper's."""
    return imagenet_resnet(given, BasicBlock, depths=(3, 4, 6, 3))


@registered_with(ImageNetArguments)
def resnet_50(given: ImageNetArguments) -> Classifier:
    """ResNet-50 (table 1) with a 3×3 stem for small images; `stem="imagenet"` is the paper's."""
    return imagenet_resnet(given, partial(by_output, Bottleneck), depths=(3, 4, 6, 3), expansion=4)
