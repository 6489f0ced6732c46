"""LSKNet, Li et al. 2023, https://arxiv.org/abs/2303.09030, written from the paper alone."""

from functools import partial

from cifarblocks.blocks.basic import LayerNorm2d
from cifarblocks.blocks.lsk import LSKBlock
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier
from cifarblocks.models.mscan import mscan, overlapping_patches
from cifarblocks.models.stems import Stem

__all__ = ["lsknet_small", "lsknet_tiny", "lsknet_tiny_cifar"]

STEM = Stem(partial(overlapping_patches, stride=4, kernel_size=7), 4)
CIFAR_STEM = Stem(partial(overlapping_patches, stride=2), 2)
NORM = partial(LayerNorm2d, eps=1e-6)


@registered_with(Arguments)
def lsknet_tiny(given: Arguments) -> Classifier:
    """LSKNet-T (section 3.1): the skeleton of MSCAN-T around LSK blocks, with a stem of one 7×7/4 convolution."""
    return mscan(given, LSKBlock, STEM, NORM, widths=(32, 64, 160, 256), depths=(3, 3, 5, 2), strides=(1, 2, 2, 2))


@registered_with(Arguments)
def lsknet_small(given: Arguments) -> Classifier:
    """LSKNet-S (section 3.1): the skeleton of MSCAN-S around LSK blocks, with a stem of one 7×7/4 convolution."""
    return mscan(given, LSKBlock, STEM, NORM, widths=(64, 128, 320, 512), depths=(2, 2, 4, 2), strides=(1, 2, 2, 2))


@registered_with(Arguments)
def lsknet_tiny_cifar(given: Arguments) -> Classifier:
    """The stages of LSKNet-T for small images: stem 3×3/2, stage strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    95.0 million multiply-adds at 32×32.
    """
    return mscan(
        given, LSKBlock, CIFAR_STEM, NORM, widths=(32, 64, 160, 256), depths=(3, 3, 5, 2), strides=(1, 2, 2, 1)
    )
