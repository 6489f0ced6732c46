"""ResNeXt, Xie et al. 2017, https://arxiv.org/abs/1611.05431."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, conv_norm
from cifarblocks.blocks.checks import Size, require_int
from cifarblocks.blocks.residual import Attention, Bottleneck
from cifarblocks.models.arguments import registered_with
from cifarblocks.models.attentions import AttentionArguments, find_attention
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_resnet
from cifarblocks.models.resnet import by_output, resnet
from cifarblocks.models.stages import build_stages, stage_info
from cifarblocks.models.stems import STEMS, imagenet_stem

__all__ = ["resnext18_dropout", "resnext_29_8x64d", "resnext_29_32x4d"]


def cifar_resnext(given: AttentionArguments, cardinality: int, base_width: int) -> Classifier:
    """The 29 layers of section 5.3: 3×3 stem of 64 channels, three stages of three bottlenecks, projection shortcuts.

    Args:
        given: the arguments of the classifier.
        cardinality: groups of the 3×3 convolutions.
        base_width: channels of a group in the first stage.

    Raises:
        ValueError: if `attention` is not a name of `list_attentions`.
    """
    bottleneck = partial(Bottleneck, groups=cardinality, base_width=base_width)
    block = partial(by_output, bottleneck, attention=find_attention(given.attention))
    return resnet(given, block, STEMS["cifar"], 64, widths=(256, 512, 1024), depths=(3, 3, 3), strides=(1, 2, 2))


biased_conv_norm = partial(conv_norm, bias=True)


class StraightBottleneck(nn.Module):
    """1×1, grouped 3×3 and 1×1 convolutions of one width, biased and with BatchNorm, and a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output and of the convolutions between; the 3×3 has groups of 32 of them.
        stride: stride of the 3×3 convolution and of the shortcut; unless it is 1, the shortcut has a 1×1 convolution.
        drop_path: probability of dropping the branch of an image in training.
        attention: builds the attention module of the branch from a number of channels.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, drop_path: float, attention: Attention
    ) -> None:
        super().__init__()
        self.reduce = biased_conv_norm(in_channels, out_channels)
        self.activation1 = nn.ReLU()
        self.conv = biased_conv_norm(out_channels, out_channels, 3, stride, groups=out_channels // 32)
        self.activation2 = nn.ReLU()
        self.expand = biased_conv_norm(out_channels, out_channels)
        self.attention = attention(out_channels)
        self.drop_path = DropPath(drop_path)
        self.shortcut = nn.Identity() if stride == 1 else biased_conv_norm(in_channels, out_channels, 1, stride)
        self.activation3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.reduce(x))
        y = self.activation2(self.conv(y))
        return self.activation3(self.shortcut(x) + self.drop_path(self.attention(self.expand(y))))


@registered_with(AttentionArguments)
def resnext_29_32x4d(given: AttentionArguments) -> Classifier:
    """ResNeXt-29 for CIFAR (section 5.3) with 32 groups of 4 channels, smaller than any of table 7."""
    return cifar_resnext(given, cardinality=32, base_width=4)


@registered_with(AttentionArguments)
def resnext_29_8x64d(given: AttentionArguments) -> Classifier:
    """ResNeXt-29 for CIFAR (table 7) with 8 groups of 64 channels."""
    return cifar_resnext(given, cardinality=8, base_width=64)


@dataclass(frozen=True, kw_only=True)
class DropoutArguments(AttentionArguments):
    """Arguments of `resnext18_dropout`."""

    image_size: Annotated[Size, "Height and width of the images, at least 16, 32 or 64 for 3, 4 or 5 stages."] = 32
    dropout: Annotated[float, "Dropout rate at the end of each stage; half of it after the first block."] = 0.4
    stages: Annotated[int, "3, 4 or 5 stages, of 64, 128, 256, 512 and 512 channels."] = 3


@registered_with(DropoutArguments)
def resnext18_dropout(given: DropoutArguments) -> Classifier:
    """A small ResNeXt (not from a paper): 7×7/2 stem, stages of two bottlenecks of one width, each followed by dropout.

    Raises:
        ValueError: if `stages` is not one of those, or `attention` not a name of `list_attentions`.
    """
    require_int(3, stages=given.stages)
    if given.stages > 5:
        raise ValueError(f"stages must be 3, 4 or 5, got {given.stages}")
    widths, strides = (64, 128, 256, 512, 512)[: given.stages], (1, 2, 2, 2, 2)[: given.stages]
    stem = imagenet_stem(given.in_channels, 64, bias=True)
    block = partial(StraightBottleneck, attention=find_attention(given.attention))
    body = build_stages([block] * given.stages, 64, widths, (2,) * given.stages, strides, given.drop_path)
    for stage in body:
        stage.append(nn.Dropout(given.dropout))
    body[0].insert(1, nn.Dropout(given.dropout / 2))
    return Classifier(
        stem,
        body,
        PooledHead(widths[-1], given.num_classes),
        stage_info(widths, strides, 4),
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_resnet,
    )
