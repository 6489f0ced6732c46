"""HorNet, Rao et al. 2022, https://arxiv.org/abs/2207.14284."""

from collections.abc import Sequence
from functools import partial

from cifarblocks.blocks.checks import height_and_width
from cifarblocks.blocks.gnconv import Filter, GlobalLocalFilter, HorNetBlock, depthwise_7x7
from cifarblocks.models.arguments import registered_with
from cifarblocks.models.classifier import Classifier
from cifarblocks.models.convnext import ConvNeXtArguments, convnext

__all__ = ["hornet_nano_cifar", "hornet_small", "hornet_small_gf", "hornet_tiny", "hornet_tiny_cifar", "hornet_tiny_gf"]

ORDERS = (2, 3, 4, 5)  # of the gnConvs of each stage


def hornet(
    given: ConvNeXtArguments,
    patch_size: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    filters: Sequence[Filter] = (depthwise_7x7,) * 4,
) -> Classifier:
    """The stem, transitions and head of ConvNeXt around HorNet blocks of orders 2, 3, 4 and 5; see `convnext`.

    `filters` has, for each stage, the function that builds the filters of its gnConvs.
    """
    blocks = [partial(HorNetBlock, order=order, filter=filter) for order, filter in zip(ORDERS, filters, strict=True)]
    return convnext(given, patch_size, widths=widths, depths=depths, strides=strides, blocks=blocks)


def global_filter_hornet(given: ConvNeXtArguments, widths: Sequence[int]) -> Classifier:
    """A network of the paper with global filters in its last two stages."""
    h, w = height_and_width(given.image_size, "image_size")
    maps = [(max(1, h // stride), max(1, w // stride)) for stride in (16, 32)]  # `Classifier` refuses smaller images
    filters: list[Filter] = [depthwise_7x7] * 2 + [partial(GlobalLocalFilter, size=size) for size in maps]
    return hornet(given, 4, widths=widths, depths=(2, 3, 18, 2), strides=(1, 2, 2, 2), filters=filters)


@registered_with(ConvNeXtArguments)
def hornet_tiny(given: ConvNeXtArguments) -> Classifier:
    """HorNet-T with 7×7 convolutions (section 3.3)."""
    return hornet(given, 4, widths=(64, 128, 256, 512), depths=(2, 3, 18, 2), strides=(1, 2, 2, 2))


@registered_with(ConvNeXtArguments, image_size=224)
def hornet_tiny_gf(given: ConvNeXtArguments) -> Classifier:
    """HorNet-T with global filters in stages 3 and 4 (section 3.3), made for the maps of `image_size`."""
    return global_filter_hornet(given, widths=(64, 128, 256, 512))


@registered_with(ConvNeXtArguments)
def hornet_small(given: ConvNeXtArguments) -> Classifier:
    """HorNet-S with 7×7 convolutions (section 3.3)."""
    return hornet(given, 4, widths=(96, 192, 384, 768), depths=(2, 3, 18, 2), strides=(1, 2, 2, 2))


@registered_with(ConvNeXtArguments, image_size=224)
def hornet_small_gf(given: ConvNeXtArguments) -> Classifier:
    """HorNet-S with global filters in stages 3 and 4 (section 3.3), made for the maps of `image_size`."""
    return global_filter_hornet(given, widths=(96, 192, 384, 768))


@registered_with(ConvNeXtArguments)
def hornet_nano_cifar(given: ConvNeXtArguments) -> Classifier:
    """The widths and depths of `convnext_atto_cifar`, to compare with; patches of 2×2, maps of 16, 8, 4 and 4.

    Not from a paper. 93.2 million multiply-adds at 32×32.
    """
    return hornet(given, 2, widths=(40, 80, 160, 320), depths=(2, 2, 6, 2), strides=(1, 2, 2, 1))


@registered_with(ConvNeXtArguments)
def hornet_tiny_cifar(given: ConvNeXtArguments) -> Classifier:
    """The stages of `hornet_tiny` for small images: patches of 2×2, strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    The last transition is a 1×1 convolution. 397.9 million multiply-adds at 32×32.
    """
    return hornet(given, 2, widths=(64, 128, 256, 512), depths=(2, 3, 18, 2), strides=(1, 2, 2, 1))
