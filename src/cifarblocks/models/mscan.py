"""MSCAN, the encoder of SegNeXt, Guo et al. 2022, https://arxiv.org/abs/2209.08575."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import nn

from cifarblocks.blocks.basic import LayerNorm2d, conv_norm
from cifarblocks.blocks.msca import MSCABlock
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_mscan
from cifarblocks.models.stages import build_transition_stages, stage_info
from cifarblocks.models.stems import Stem

__all__ = ["segnext_mscan_base", "segnext_mscan_small", "segnext_mscan_tiny", "segnext_mscan_tiny_cifar"]

MLP_RATIOS = (8, 8, 4, 4)  # of the blocks of each stage


def mscan(
    given: Arguments,
    block: Callable[..., nn.Module],
    stem: Stem,
    norm: Callable[[int], nn.Module],
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
) -> Classifier:
    """Overlapping patches, stages of blocks that end in a norm, global average pool, linear layer.

    Args:
        given: the arguments of the classifier.
        block: called as block(channels, mlp_ratio=ratio, drop_path=rate).
        stem: the first patches.
        norm: builds the end of each stage, called as norm(channels).
        widths: channels of each stage.
        depths: blocks of each stage.
        strides: stride of the patches before each stage; that of the first is 1.

    Raises:
        ValueError: if `in_channels` is below 1, or `image_size` below the stride of the last map.
    """
    blocks = [partial(block, mlp_ratio=ratio) for ratio in MLP_RATIOS]
    return Classifier(
        stem.build(given.in_channels, widths[0]),
        build_transition_stages(blocks, overlapping_patches, widths, depths, strides, given.drop_path, norm),
        PooledHead(widths[-1], given.num_classes, given.dropout),
        stage_info(widths, strides, stem.stride),
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_mscan,
    )


def overlapping_patches(in_channels: int, out_channels: int, stride: int, kernel_size: int = 3) -> nn.Sequential:
    """Convolution with bias, BatchNorm: (b, in_channels, h, w) → (b, out_channels, ⌈h/stride⌉, ⌈w/stride⌉)."""
    return conv_norm(in_channels, out_channels, kernel_size, stride, bias=True)


def two_patches(in_channels: int, out_channels: int, strides: tuple[int, int]) -> nn.Sequential:
    """The stem: 3×3 patches of half the channels, GELU, 3×3 patches."""
    first, second = strides
    return nn.Sequential(
        overlapping_patches(in_channels, out_channels // 2, first),
        nn.GELU(),
        overlapping_patches(out_channels // 2, out_channels, second),
    )


STEM = Stem(partial(two_patches, strides=(2, 2)), 4)
CIFAR_STEM = Stem(partial(two_patches, strides=(1, 2)), 2)
NORM = partial(LayerNorm2d, eps=1e-5)


@registered_with(Arguments)
def segnext_mscan_tiny(given: Arguments) -> Classifier:
    """MSCAN-T (table 2)."""
    return mscan(given, MSCABlock, STEM, NORM, widths=(32, 64, 160, 256), depths=(3, 3, 5, 2), strides=(1, 2, 2, 2))


@registered_with(Arguments)
def segnext_mscan_small(given: Arguments) -> Classifier:
    """MSCAN-S (table 2)."""
    return mscan(given, MSCABlock, STEM, NORM, widths=(64, 128, 320, 512), depths=(2, 2, 4, 2), strides=(1, 2, 2, 2))


@registered_with(Arguments)
def segnext_mscan_base(given: Arguments) -> Classifier:
    """MSCAN-B (table 2)."""
    return mscan(given, MSCABlock, STEM, NORM, widths=(64, 128, 320, 512), depths=(3, 3, 12, 3), strides=(1, 2, 2, 2))


@dataclass(frozen=True, kw_only=True)
class StripArguments(Arguments):
    """Arguments of `segnext_mscan_tiny_cifar`."""

    strips: Annotated[Sequence[int], "Lengths of the strip convolutions, odd."] = (7, 11, 21)


@registered_with(StripArguments)
def segnext_mscan_tiny_cifar(given: StripArguments) -> Classifier:
    """The stages of MSCAN-T for small images: stem strides 1 and 2, stage strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    On these maps the long `strips` read mostly padding. 95.1 million multiply-adds at 32×32.
    """
    block = partial(MSCABlock, strips=given.strips)
    return mscan(given, block, CIFAR_STEM, NORM, widths=(32, 64, 160, 256), depths=(3, 3, 5, 2), strides=(1, 2, 2, 1))
