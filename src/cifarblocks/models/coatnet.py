"""CoAtNet: Dai et al. 2021, https://arxiv.org/abs/2106.04803."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.eca import ECA
from cifarblocks.blocks.mbconv import LSKMBConv, MBConv
from cifarblocks.blocks.relative_attention import RelativeTransformerBlock
from cifarblocks.blocks.sizes import Size, height_and_width
from cifarblocks.models.arguments import Arguments
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_coatnet
from cifarblocks.models.stages import build_stages, stage_info
from cifarblocks.models.stems import STEMS, Stem
from cifarblocks.registry import register_model

CONVOLUTIONS = {"mbconv": MBConv, "lsk_mbconv": LSKMBConv}


def coatnet(
    stem: Stem,
    convolution: Callable[..., nn.Module],
    attention: Callable[..., nn.Module],
    head: Callable[[int, int, float], nn.Module],
    stem_channels: int,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    /,
    **arguments: Any,
) -> Classifier:
    """Stem, stages of convolutions, two stages of relative attention, head.

    Args:
        stem: the first layers.
        convolution: block of all stages but the last two, as block(in_channels, out_channels, stride, drop_path=rate).
        attention: block of the last two, as block(in_channels, out_channels, size, stride, drop_path=rate).
        head: called as head(channels, num_classes, dropout).
        stem_channels: channels that the stem gives.
        widths: output channels of each stage.
        depths: blocks of each stage.
        strides: stride of the first block of each stage.
        arguments: those of `Arguments`; relative biases are made for `image_size` and resized for other images.
    """
    given = Arguments(**arguments)
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
    """The block of attention that gives a map of `size`, called as a convolution is."""
    before = (size[0] * stride, size[1] * stride)
    return block(in_channels, out_channels, before, stride, drop_path=drop_path)


def map_size(image_size: Size, stride: int) -> tuple[int, int]:
    """Height and width of the map after strides that multiply to `stride`, each rounding up.

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
    stem_stride: int,
    stem_channels: int,
    widths: Sequence[int],
    depths: Sequence[int],
    /,
    *,
    convolution: str = "mbconv",
    **arguments: Any,
) -> Classifier:
    """A network of table 3 and its relatives: stem S0, stages S1 to S4, heads of 32 channels.

    Args:
        stem_stride: of S0 and of S1: 2, or 1 for small images.
        stem_channels: channels of S0.
        widths: channels of S1 to S4.
        depths: blocks of S1 to S4.
        convolution: block of S1 and S2: "mbconv", or "lsk_mbconv", which has no shortcut where the shape changes.
        arguments: those of `Arguments`.

    Raises:
        ValueError: if `convolution` is not one of those.
    """
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution must be one of {list(CONVOLUTIONS)}, got {convolution!r}")
    stem = Stem(partial(double_stem, stride=stem_stride), stem_stride)
    block, attention = CONVOLUTIONS[convolution], RelativeTransformerBlock
    strides = (stem_stride, 2, 2, 2)
    return coatnet(stem, block, attention, tanh_head, stem_channels, widths, depths, strides, **arguments)


def small_coatnet(stem: Stem, /, *, dropout: float = 0.1, **arguments: Any) -> Classifier:
    """The stages of `coatnet_cifar_opt`, after any stem of full resolution."""
    convolution = partial(MBConv, gate=ECA)
    attention = partial(RelativeTransformerBlock, head_channels=48, mlp_ratio=2)
    widths, depths, strides = (64, 96, 192, 192, 192), (2, 2, 3, 5, 2), (1, 2, 2, 1, 2)
    return coatnet(stem, convolution, attention, norm_head, 64, widths, depths, strides, dropout=dropout, **arguments)


@register_model
def coatnet_0(*, image_size: Size = 224, **arguments: Any) -> Classifier:
    """CoAtNet-0 (table 3); `convolution="lsk_mbconv"` changes the blocks of S1 and S2."""
    return table_coatnet(2, 64, (96, 192, 384, 768), (2, 3, 5, 2), image_size=image_size, **arguments)


@register_model
def coatnet_1(*, image_size: Size = 224, **arguments: Any) -> Classifier:
    """CoAtNet-1 (table 3); `convolution="lsk_mbconv"` changes the blocks of S1 and S2."""
    return table_coatnet(2, 64, (96, 192, 384, 768), (2, 6, 14, 2), image_size=image_size, **arguments)


@register_model
def coatnet_2(*, image_size: Size = 224, **arguments: Any) -> Classifier:
    """CoAtNet-2 (table 3); `convolution="lsk_mbconv"` changes the blocks of S1 and S2."""
    return table_coatnet(2, 128, (128, 256, 512, 1024), (2, 6, 14, 2), image_size=image_size, **arguments)


@register_model
def coatnet_0_custom_enhanced(*, image_size: Size = 224, **arguments: Any) -> Classifier:
    """CoAtNet-0 with `LSKMBConv` in S1 and S2, whose first blocks have no shortcut; 25,663,280 parameters."""
    return coatnet_0(convolution="lsk_mbconv", image_size=image_size, **arguments)


@register_model
def coatnet_0_cifar(**arguments: Any) -> Classifier:
    """CoAtNet-0 with S0 and S1 at full resolution: maps of 32, 16, 8 and 4, 1,200,233,472 multiply-adds at 32×32."""
    return table_coatnet(1, 64, (96, 192, 384, 768), (2, 3, 5, 2), **arguments)


@register_model
def coatnet_nano_cifar(**arguments: Any) -> Classifier:
    """CoAtNet-0's depths at half its widths, the last 256: maps of 32, 16, 8 and 4, 278,421,504 multiply-adds at 32×32.

    >>> coatnet_nano_cifar().feature_info[-1]
    FeatureInfo(channels=256, stride=8)
    """
    return table_coatnet(1, 32, (48, 96, 192, 256), (2, 3, 5, 2), **arguments)


@register_model
def coatnet_cifar_opt(**arguments: Any) -> Classifier:
    """Stem of 3×3; 2, 2, 3 MBConv with ECA on maps of 32, 16, 8; 5 and 2 blocks of attention on maps of 8 and 4.

    Attention has 4 heads and MLPs of twice its width; 277,860,608 multiply-adds at 32×32.
    """
    return small_coatnet(STEMS["cifar"], **arguments)


@register_model
def coatnet_cifar_opt_large_stem(**arguments: Any) -> Classifier:
    """`coatnet_cifar_opt` with a stem of 5×5: 281,006,336 multiply-adds at 32×32."""
    return small_coatnet(Stem(partial(conv_norm, kernel_size=5, activation=nn.ReLU), 1), **arguments)
