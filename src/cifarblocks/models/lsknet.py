"""LSKNet, Li et al. 2023, https://arxiv.org/abs/2303.09030, written from the paper alone."""

from functools import partial
from typing import Any

from cifarblocks.blocks.basic import LayerNorm2d
from cifarblocks.blocks.lsk import LSKBlock
from cifarblocks.models.classifier import Classifier
from cifarblocks.models.mscan import SMALL, TINY, mscan, overlapping_patches
from cifarblocks.models.stems import Stem
from cifarblocks.registry import register_model

IMAGENET_STEM = Stem(partial(overlapping_patches, stride=4, kernel_size=7), 4)
CIFAR_STEM = Stem(partial(overlapping_patches, stride=2), 2)
NORM = partial(LayerNorm2d, eps=1e-6)


@register_model
def lsknet_tiny(**arguments: Any) -> Classifier:
    """LSKNet-T (section 3.1): the skeleton of MSCAN-T around LSK blocks, with a stem of one 7×7/4 convolution.

    >>> lsknet_tiny().num_features
    256
    """
    return mscan(LSKBlock, IMAGENET_STEM, NORM, *TINY, (1, 2, 2, 2), **arguments)


@register_model
def lsknet_small(**arguments: Any) -> Classifier:
    """LSKNet-S (section 3.1): the skeleton of MSCAN-S around LSK blocks, with a stem of one 7×7/4 convolution."""
    return mscan(LSKBlock, IMAGENET_STEM, NORM, *SMALL, (1, 2, 2, 2), **arguments)


@register_model
def lsknet_tiny_cifar(**arguments: Any) -> Classifier:
    """The stages of LSKNet-T for small images: stem 3×3/2, stage strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    95.0 million multiply-adds at 32×32.
    """
    return mscan(LSKBlock, CIFAR_STEM, NORM, *TINY, (1, 2, 2, 1), **arguments)
