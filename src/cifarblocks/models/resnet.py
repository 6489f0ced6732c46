"""ResNet, He et al. 2016, https://arxiv.org/abs/1512.03385, and ECA-Net, https://arxiv.org/abs/1910.03151."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from cifarblocks.blocks.eca import ECA
from cifarblocks.blocks.residual import Attention, BasicBlock, Bottleneck, PaddingShortcut, ProjectionShortcut
from cifarblocks.blocks.se import SqueezeExcite
from cifarblocks.models.arguments import Arguments
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_resnet
from cifarblocks.models.stages import build_stages, stage_info
from cifarblocks.models.stems import STEMS, Stem
from cifarblocks.registry import register_model

ATTENTIONS: dict[str, Attention] = {
    "none": nn.Identity,
    "eca": ECA,
    "se": lambda channels: SqueezeExcite(channels, max(1, channels // 16)),  # SENet's reduction
}
SHORTCUTS = {"A": PaddingShortcut, "B": ProjectionShortcut}  # as section 3.3 of ResNet calls them


def resnet(
    block: Callable[..., nn.Module],
    stem: Stem,
    stem_channels: int,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    /,
    **arguments: Any,
) -> Classifier:
    """Stem, stages of residual blocks, global average pool, linear layer.

    Args:
        block: called as block(in_channels, out_channels, stride, drop_path=rate).
        stem: the first layers, one of `STEMS`.
        stem_channels: channels that the stem gives.
        widths: output channels of each stage.
        depths: blocks of each stage.
        strides: stride of the first block of each stage.
        arguments: those of `Arguments`.
    """
    given = Arguments(**arguments)
    return Classifier(
        stem.build(given.in_channels, stem_channels),
        build_stages([block] * len(widths), stem_channels, widths, depths, strides, given.drop_path),
        PooledHead(widths[-1], given.num_classes, given.dropout),
        stage_info(widths, strides, stem.stride),
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_resnet,
    )


def cifar_resnet(
    depth: int, attention: Attention = nn.Identity, position: int = 2, /, *, shortcut: str = "B", **arguments: Any
) -> Classifier:
    """The 6n + 2 layers of section 4.2: 3×3 stem of 16 channels, n basic blocks each of 16, 32 and 64 channels.

    Args:
        depth: 6n + 2.
        attention: builds the gate of each block.
        position: where the gate stands: 1 after the first BatchNorm, 2 after the second, 3 after the addition.
        shortcut: "B", a projection where the shape changes, or "A", zeros for the new channels.
        arguments: those of `Arguments`.

    Raises:
        ValueError: if an argument is not one of those above.
    """
    if position not in (1, 2, 3):
        raise ValueError(f"position must be 1, 2 or 3, got {position!r}")
    if shortcut not in SHORTCUTS:
        raise ValueError(f"shortcut must be one of {list(SHORTCUTS)}, got {shortcut!r}")
    block = partial(BasicBlock, attention=attention, attention_position=position, shortcut=SHORTCUTS[shortcut])
    blocks = (depth - 2) // 6
    return resnet(block, STEMS["cifar"], 16, (16, 32, 64), (blocks,) * 3, (1, 2, 2), **arguments)


def gated_resnet(depth: int, /, *, attention: str = "none", position: int = 2, **arguments: Any) -> Classifier:
    """The same with its gate told by name: "none", "eca" (adaptive kernel) or "se" (a sixteenth of the channels).

    Raises:
        ValueError: if `attention` is not one of those.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"attention must be one of {list(ATTENTIONS)}, got {attention!r}")
    return cifar_resnet(depth, ATTENTIONS[attention], position, **arguments)


def imagenet_resnet(
    block: Callable[..., nn.Module], depths: Sequence[int], expansion: int, /, *, stem: str = "cifar", **arguments: Any
) -> Classifier:
    """A network of table 1, with a stem for small images unless told otherwise.

    Args:
        block: called as block(in_channels, out_channels, stride, drop_path=rate).
        depths: blocks of each of the four stages.
        expansion: output channels of a stage for each of 64, 128, 256 and 512.
        stem: "cifar", a 3×3 convolution at full resolution, or "imagenet", the paper's 7×7/2 and max pool.
        arguments: those of `Arguments`.

    Raises:
        ValueError: if `stem` is not one of those.
    """
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {list(STEMS)}, got {stem!r}")
    widths = [width * expansion for width in (64, 128, 256, 512)]
    return resnet(block, STEMS[stem], 64, widths, depths, (1, 2, 2, 2), **arguments)


def by_output(
    block: Callable[..., nn.Module], in_channels: int, out_channels: int, stride: int, *, drop_path: float
) -> nn.Module:
    """Build a bottleneck, called by its bottleneck's channels, for the output channels by which stages are called."""
    return block(in_channels, out_channels // 4, stride, drop_path=drop_path)


@register_model
def resnet_20(**arguments: Any) -> Classifier:
    """ResNet-20 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own.

    >>> resnet_20().num_features
    64
    """
    return gated_resnet(20, **arguments)


@register_model
def resnet_32(**arguments: Any) -> Classifier:
    """ResNet-32 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return gated_resnet(32, **arguments)


@register_model
def resnet_44(**arguments: Any) -> Classifier:
    """ResNet-44 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return gated_resnet(44, **arguments)


@register_model
def resnet_56(**arguments: Any) -> Classifier:
    """ResNet-56 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return gated_resnet(56, **arguments)


@register_model
def resnet_110(**arguments: Any) -> Classifier:
    """ResNet-110 for CIFAR (table 6), with projection shortcuts; `shortcut="A"` is the paper's own."""
    return gated_resnet(110, **arguments)


@register_model
def eca_resnet_20(*, kernel_size: int | None = 3, position: int = 2, **arguments: Any) -> Classifier:
    """ResNet-20 with ECA after the second BatchNorm of every block; `kernel_size=None` is the adaptive rule.

    ECA-Net, https://arxiv.org/abs/1910.03151.
    """
    return cifar_resnet(20, partial(ECA, kernel_size=kernel_size), position, **arguments)


@register_model
def eca_resnet_32(*, kernel_size: int | None = 5, position: int = 2, **arguments: Any) -> Classifier:
    """ResNet-32 with ECA of kernel 5 after the second BatchNorm of every block.

    ECA-Net, https://arxiv.org/abs/1910.03151.
    """
    return cifar_resnet(32, partial(ECA, kernel_size=kernel_size), position, **arguments)


@register_model
def eca_resnet_56(*, kernel_size: int | None = None, position: int = 2, **arguments: Any) -> Classifier:
    """ResNet-56 with ECA of the adaptive kernel after the second BatchNorm of every block.

    ECA-Net, https://arxiv.org/abs/1910.03151.
    """
    return cifar_resnet(56, partial(ECA, kernel_size=kernel_size), position, **arguments)


@register_model
def resnet20_no_eca(**arguments: Any) -> Classifier:
    """The kernel ablation's baseline: `resnet_20`."""
    return resnet_20(**arguments)


def ablation(name: str, change: str, **fixed: Any) -> Callable[..., Classifier]:
    """Register `eca_resnet_20` with some arguments fixed under a name of its own, for tables and grids."""

    def build(**arguments: Any) -> Classifier:
        return eca_resnet_20(**fixed, **arguments)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{change}.\n\n    ECA-Net, https://arxiv.org/abs/1910.03151.\n    "
    return register_model(build)


KERNEL, POSITION = "The kernel ablation: `eca_resnet_20` with", "The position ablation: ECA after"
ecanet20_fixed_k3 = ablation("ecanet20_fixed_k3", f"{KERNEL} kernel 3", kernel_size=3)
ecanet20_fixed_k5 = ablation("ecanet20_fixed_k5", f"{KERNEL} kernel 5", kernel_size=5)
ecanet20_fixed_k7 = ablation("ecanet20_fixed_k7", f"{KERNEL} kernel 7", kernel_size=7)
ecanet20_fixed_k9 = ablation("ecanet20_fixed_k9", f"{KERNEL} kernel 9", kernel_size=9)
ADAPTIVE = f"{KERNEL} the adaptive kernel, which is 3 at widths 16, 32 and 64"
ecanet20_adaptive = ablation("ecanet20_adaptive", ADAPTIVE, kernel_size=None)
BEFORE_RELU = f"{POSITION} the first BatchNorm of every block, before its ReLU"
eca_resnet20_pos1 = ablation("eca_resnet20_pos1", BEFORE_RELU, position=1)
eca_resnet20_pos2 = ablation("eca_resnet20_pos2", f"{POSITION} the second BatchNorm, as in `eca_resnet_20`", position=2)
eca_resnet20_pos3 = ablation("eca_resnet20_pos3", f"{POSITION} the addition, before the last ReLU", position=3)


@register_model
def resnet_18(**arguments: Any) -> Classifier:
    """ResNet-18 (table 1) with a 3×3 stem for small images; `stem="imagenet"` is the paper's."""
    return imagenet_resnet(BasicBlock, (2, 2, 2, 2), 1, **arguments)


@register_model
def resnet_34(**arguments: Any) -> Classifier:
    """ResNet-34 (table 1) with a 3×3 stem for small images; `stem="imagenet"` is the paper's."""
    return imagenet_resnet(BasicBlock, (3, 4, 6, 3), 1, **arguments)


@register_model
def resnet_50(**arguments: Any) -> Classifier:
    """ResNet-50 (table 1) with a 3×3 stem for small images; `stem="imagenet"` is the paper's."""
    return imagenet_resnet(partial(by_output, Bottleneck), (3, 4, 6, 3), 4, **arguments)
