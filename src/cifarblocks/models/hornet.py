"""HorNet, Rao et al. 2022, https://arxiv.org/abs/2207.14284."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from cifarblocks.blocks.gnconv import Filter, GlobalLocalFilter, HorNetBlock, depthwise_7x7
from cifarblocks.blocks.sizes import Size, height_and_width
from cifarblocks.models.classifier import Classifier
from cifarblocks.models.convnext import convnext, doubled
from cifarblocks.registry import register_model

ORDERS = (2, 3, 4, 5)  # of the gnConvs of each stage
DEPTHS = (2, 3, 18, 2)  # of every network of the paper


def hornet(
    filters: Sequence[Filter],
    patch_size: int,
    width: int,
    depths: Sequence[int],
    strides: Sequence[int],
    /,
    **arguments: Any,
) -> Classifier:
    """The stem, transitions and head of ConvNeXt around HorNet blocks of orders 2, 3, 4 and 5.

    Args:
        filters: builds the filter of the gnConvs of each stage, `depthwise_7x7` or `GlobalLocalFilter`.
        patch_size: height, width and stride of the patches that the stem takes.
        width: channels of the first stage; each stage has twice those of the one before.
        depths: blocks of each stage.
        strides: stride of the transition before each stage; that of the first is 1.
        arguments: those of `Arguments`, and `layer_scale` as in `convnext`.
    """
    blocks = [partial(HorNetBlock, order=order, filter=filter) for order, filter in zip(ORDERS, filters, strict=True)]
    return convnext(blocks, patch_size, doubled(width), depths, strides, **arguments)


def convolutional_hornet(width: int, /, **arguments: Any) -> Classifier:
    """A network of the paper whose filters are 7×7 convolutions; arguments as `hornet`."""
    return hornet([depthwise_7x7] * 4, 4, width, DEPTHS, (1, 2, 2, 2), **arguments)


def global_filter_hornet(width: int, /, *, image_size: Size = 224, **arguments: Any) -> Classifier:
    """A network of the paper with global filters in its last two stages, made for the maps of `image_size`.

    Images of another size are taken: their spectra are filtered by resized weights.
    """
    h, w = height_and_width(image_size, "image_size")
    filters: list[Filter] = [depthwise_7x7, depthwise_7x7]
    maps = [(max(1, h // stride), max(1, w // stride)) for stride in (16, 32)]  # `Classifier` refuses what is too small
    filters += [partial(GlobalLocalFilter, size=size) for size in maps]
    return hornet(filters, 4, width, DEPTHS, (1, 2, 2, 2), image_size=image_size, **arguments)


def cifar_hornet(width: int, depths: Sequence[int], /, **arguments: Any) -> Classifier:
    """The plan for small images: patches of 2×2, maps of 1/2, 1/4, 1/8 and 1/8, 7×7 convolutions; else as `hornet`."""
    return hornet([depthwise_7x7] * 4, 2, width, depths, (1, 2, 2, 1), **arguments)


@register_model
def hornet_tiny(**arguments: Any) -> Classifier:
    """HorNet-T with 7×7 convolutions (section 3.3)."""
    return convolutional_hornet(64, **arguments)


@register_model
def hornet_tiny_gf(**arguments: Any) -> Classifier:
    """HorNet-T with global filters in stages 3 and 4 (section 3.3); `image_size`, 224, is that of their spectra."""
    return global_filter_hornet(64, **arguments)


@register_model
def hornet_small(**arguments: Any) -> Classifier:
    """HorNet-S with 7×7 convolutions (section 3.3)."""
    return convolutional_hornet(96, **arguments)


@register_model
def hornet_small_gf(**arguments: Any) -> Classifier:
    """HorNet-S with global filters in stages 3 and 4 (section 3.3); `image_size`, 224, is that of their spectra."""
    return global_filter_hornet(96, **arguments)


@register_model
def hornet_nano_cifar(**arguments: Any) -> Classifier:
    """The widths and depths of `convnext_atto_cifar`, to compare with; patches of 2×2, maps of 16, 8, 4 and 4.

    It is of no paper. 93.2 million multiply-adds at 32×32.

    >>> hornet_nano_cifar().num_features
    320
    """
    return cifar_hornet(40, (2, 2, 6, 2), **arguments)


@register_model
def hornet_tiny_cifar(**arguments: Any) -> Classifier:
    """The stages of `hornet_tiny` for small images: patches of 2×2, strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    The last transition is a 1×1 convolution. 397.9 million multiply-adds at 32×32.
    """
    return cifar_hornet(64, DEPTHS, **arguments)
