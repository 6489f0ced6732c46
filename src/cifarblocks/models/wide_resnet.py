"""Wide ResNet, Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import nn

from cifarblocks.blocks.residual import PreActBlock
from cifarblocks.models.arguments import registered_with
from cifarblocks.models.attentions import AttentionArguments, find_attention
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_resnet
from cifarblocks.models.stages import build_stages, stage_info

__all__ = ["wrn_16_4", "wrn_28_10"]


@dataclass(frozen=True, kw_only=True)
class WideResNetArguments(AttentionArguments):
    """Arguments of every Wide ResNet."""

    dropout: Annotated[float, "Dropout rate between the convolutions of each block (section 2.4)."] = 0.0


def wide_resnet(given: WideResNetArguments, depth: int, factor: int) -> Classifier:
    """The 6n + 4 layers of table 1: 3×3 convolution, n blocks a stage, BatchNorm and ReLU before the average.

    Args:
        given: the arguments of the classifier.
        depth: 6n + 4.
        factor: widening factor; the stages have `factor` times 16, 32 and 64 channels.

    Raises:
        ValueError: if `attention` is not a name of `list_attentions`.
    """
    widths, strides = (16 * factor, 32 * factor, 64 * factor), (1, 2, 2)
    block = partial(PreActBlock, attention=find_attention(given.attention), dropout=given.dropout)
    activated = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
    return Classifier(
        nn.Conv2d(given.in_channels, 16, 3, padding=1, bias=False),
        build_stages([block] * 3, 16, widths, ((depth - 4) // 6,) * 3, strides, given.drop_path),
        PooledHead(widths[-1], given.num_classes, before=activated),
        stage_info(widths, strides, 1),
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_resnet,
    )


@registered_with(WideResNetArguments)
def wrn_16_4(given: WideResNetArguments) -> Classifier:
    """WRN-16-4 (table 6): 16 layers, 4 times as wide as ResNet; `dropout=0.3` for its row with dropout."""
    return wide_resnet(given, depth=16, factor=4)


@registered_with(WideResNetArguments)
def wrn_28_10(given: WideResNetArguments) -> Classifier:
    """WRN-28-10 (table 6): 28 layers, 10 times as wide as ResNet; `dropout=0.3` for its row with dropout."""
    return wide_resnet(given, depth=28, factor=10)
