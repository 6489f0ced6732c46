"""CoAtNet: Dai et al. 2021, https://arxiv.org/abs/2106.04803."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.checks import Size, choose, height_and_width
from cifarblocks.blocks.mbconv import LSKMBConv, MBConv
from cifarblocks.blocks.relative_attention import RelativeTransformerBlock
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.attentions import NAMES, find_attention
from cifarblocks.models.classifier import Classifier, Head, PooledHead
from cifarblocks.models.initialise import initialise_coatnet
from cifarblocks.models.stages import build_stages, stage_info
from cifarblocks.models.stems import STEMS, Stem

__all__ = [
    "coatnet_0", "coatnet_0_cifar", "coatnet_0_custom_enhanced", "coatnet_1", "coatnet_2", "coatnet_cifar_opt",
    "coatnet_cifar_opt_large_stem", "coatnet_nano_cifar",
]  # fmt: skip

CONVOLUTIONS = {"mbconv": MBConv, "lsk_mbconv": LSKMBConv}


@dataclass(frozen=True, kw_only=True)
class GateArguments(Arguments):
    """Arguments of a network of table 3 with one kind of convolutional block."""

    attention: Annotated[str | None, f"Attention of the blocks in S1 and S2: {NAMES}; None is the paper's."] = None


@dataclass(frozen=True, kw_only=True)
class CoAtNetArguments(GateArguments):
    """Arguments of the networks of table 3 and their relatives."""

    convolution: Annotated[str, 'Block of S1 and S2: "mbconv" or "lsk_mbconv".'] = "mbconv"


@dataclass(frozen=True, kw_only=True)
class SmallArguments(Arguments):
    """Arguments of `coatnet_cifar_opt` and `coatnet_cifar_opt_large_stem`."""

    attention: Annotated[str, f"Attention of each MBConv: {NAMES}."] = "eca"


def coatnet(
    given: Arguments,
    stem: Stem,
    convolution: Callable[..., nn.Module],
    attention: Callable[..., nn.Module],
    head: Callable[[int, int, float], Head],
    stem_channels: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
) -> Classifier:
    """Stem, stages of convolutions, two stages of relative attention, head.

    Relative biases are made for `image_size` and resized for other images.

    Args:
        given: the arguments of the classifier.
        stem: the first layers.
        convolution: block of all stages but the last two, as block(in_channels, out_channels, stride, drop_path=rate).
        attention: block of the last two, as block(in_channels, out_channels, size, stride, drop_path=rate).
        head: called as head(channels, num_classes, dropout).
        stem_channels: output channels of the stem.
        widths: output channels of each stage.
        depths: blocks of each stage.
        strides: stride of the first block of each stage.
    """
    infos = stage_info(widths, strides, stem.stride)
    blocks = [convolution] * (len(depths) - 2)
    blocks += [partial(giving, map_size(given.image_size, info.stride), attention) for info in infos[-2:]]
    stages = build_stages(blocks, stem_channels, widths, depths, strides, given.drop_path)
    return Classifier(
        stem.build(given.in_channels, stem_channels),
        stages,
        head(widths[-1], given.num_classes, given.dropout),
        infos,
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_coatnet,
    )


def giving(
    size: tuple[int, int],
    block: Callable[..., nn.Module],
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    drop_path: float,
) -> nn.Module:
    """Return an attention block for an output map of `size`, called like a convolutional block."""
    before = (size[0] * stride, size[1] * stride)
    return block(in_channels, out_channels, before, stride, drop_path=drop_path)


def map_size(image_size: Size, stride: int) -> tuple[int, int]:
    """Return height and width of the map after strides with the product `stride`, each rounding up.

    >>> map_size((33, 224), 8)
    (5, 28)
    """
    height, width = height_and_width(image_size, "image_size")
    return -(-height // stride), -(-width // stride)


def double_stem(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """S0: 3×3 convolution with the stride, BatchNorm, GELU, 3×3 convolution, without biases."""
    first = conv_norm(in_channels, out_channels, 3, stride, activation=nn.GELU)
    return nn.Sequential(*first, nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False))


def tanh_head(channels: int, num_classes: int, dropout: float) -> PooledHead:
    """Average, LayerNorm, linear layer, tanh, dropout, linear layer."""
    after = nn.Sequential(nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, channels), nn.Tanh())
    return PooledHead(channels, num_classes, dropout, after=after)


def norm_head(channels: int, num_classes: int, dropout: float) -> PooledHead:
    """Average, LayerNorm, dropout, linear layer."""
    return PooledHead(channels, num_classes, dropout, after=nn.LayerNorm(channels, eps=1e-6))


def table_coatnet(
    given: CoAtNetArguments, stem_stride: int, stem_channels: int, *, widths: Sequence[int], depths: Sequence[int]
) -> Classifier:
    """A network of table 3 and its relatives: stem S0, stages S1 to S4, heads of 32 channels; see `coatnet`.

    S0 and S1 have `stem_stride`: 2, or 1 for small images. `LSKMBConv` has no shortcut where the shape changes.

    Raises:
        ValueError: if `convolution` is not one of `CONVOLUTIONS`, or `attention` not a name of `list_attentions`.
    """
    stem, strides = Stem(partial(double_stem, stride=stem_stride), stem_stride), (stem_stride, 2, 2, 2)
    gate = None if given.attention is None else find_attention(given.attention)
    convolution = partial(choose(CONVOLUTIONS, convolution=given.convolution), gate=gate)
    parts = (stem, convolution, RelativeTransformerBlock, tanh_head)
    return coatnet(given, *parts, stem_channels, widths=widths, depths=depths, strides=strides)


def small_coatnet(given: SmallArguments, stem: Stem) -> Classifier:
    """The stages of `coatnet_cifar_opt`, after any stem of full resolution.

    Raises:
        ValueError: if `attention` is not a name of `list_attentions`.
    """
    attention = partial(RelativeTransformerBlock, head_channels=48, mlp_ratio=2)
    parts = (stem, partial(MBConv, gate=find_attention(given.attention)), attention, norm_head)
    widths, depths, strides = (64, 96, 192, 192, 192), (2, 2, 3, 5, 2), (1, 2, 2, 1, 2)
    return coatnet(given, *parts, 64, widths=widths, depths=depths, strides=strides)


@registered_with(CoAtNetArguments, image_size=224)
def coatnet_0(given: CoAtNetArguments) -> Classifier:
    """CoAtNet-0 (table 3); `convolution="lsk_mbconv"` changes the blocks of S1 and S2."""
    return table_coatnet(given, 2, 64, widths=(96, 192, 384, 768), depths=(2, 3, 5, 2))


@registered_with(CoAtNetArguments, image_size=224)
def coatnet_1(given: CoAtNetArguments) -> Classifier:
    """CoAtNet-1 (table 3); `convolution="lsk_mbconv"` changes the blocks of S1 and S2."""
    return table_coatnet(given, 2, 64, widths=(96, 192, 384, 768), depths=(2, 6, 14, 2))


@registered_with(CoAtNetArguments, image_size=224)
def coatnet_2(given: CoAtNetArguments) -> Classifier:
    """CoAtNet-2 (table 3); `convolution="lsk_mbconv"` changes the blocks of S1 and S2."""
    return table_coatnet(given, 2, 128, widths=(128, 256, 512, 1024), depths=(2, 6, 14, 2))


@registered_with(GateArguments, image_size=224)
def coatnet_0_custom_enhanced(given: GateArguments) -> Classifier:
    """CoAtNet-0 with `LSKMBConv` in S1 and S2, whose first blocks have no shortcut; 25,663,280 parameters."""
    return coatnet_0(convolution="lsk_mbconv", **vars(given))


@registered_with(CoAtNetArguments)
def coatnet_0_cifar(given: CoAtNetArguments) -> Classifier:
    """CoAtNet-0 with S0 and S1 at full resolution: maps of 32, 16, 8 and 4, 1,200,233,472 multiply-adds at 32×32."""
    return table_coatnet(given, 1, 64, widths=(96, 192, 384, 768), depths=(2, 3, 5, 2))


@registered_with(CoAtNetArguments)
def coatnet_nano_cifar(given: CoAtNetArguments) -> Classifier:
    """CoAtNet-0's depths at half its widths, last 256: maps of 32, 16, 8 and 4, 278,421,504 multiply-adds at 32×32."""
    return table_coatnet(given, 1, 32, widths=(48, 96, 192, 256), depths=(2, 3, 5, 2))


@registered_with(SmallArguments, dropout=0.1)
def coatnet_cifar_opt(given: SmallArguments) -> Classifier:
    """Stem of 3×3; 2, 2, 3 MBConv with ECA on maps of 32, 16, 8; 5 and 2 blocks of attention on maps of 8 and 4.

    Attention has 4 heads and MLPs of twice its width; 277,860,608 multiply-adds at 32×32.
    """
    return small_coatnet(given, STEMS["cifar"])


@registered_with(SmallArguments, dropout=0.1)
def coatnet_cifar_opt_large_stem(given: SmallArguments) -> Classifier:
    """`coatnet_cifar_opt` with a stem of 5×5: 281,006,336 multiply-adds at 32×32."""
    return small_coatnet(given, Stem(partial(conv_norm, kernel_size=5, activation=nn.ReLU), 1))
