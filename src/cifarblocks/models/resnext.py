"""ResNeXt, Xie et al. 2017, https://arxiv.org/abs/1611.05431."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, conv_norm
from cifarblocks.blocks.residual import Bottleneck
from cifarblocks.blocks.sizes import Size
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_resnet
from cifarblocks.models.resnet import by_output, resnet
from cifarblocks.models.stages import build_stages, stage_info
from cifarblocks.models.stems import STEMS
from cifarblocks.registry import register_model


def cifar_resnext(cardinality: int, base_width: int, /, **arguments: Any) -> Classifier:
    """The 29 layers of section 5.3: 3×3 stem of 64 channels, three stages of three bottlenecks, projection shortcuts.

    Args:
        cardinality: groups of the 3×3 convolutions.
        base_width: channels of a group in the first stage.
        arguments: those of `Arguments`.
    """
    block = partial(by_output, partial(Bottleneck, groups=cardinality, base_width=base_width))
    return resnet(block, STEMS["cifar"], 64, (256, 512, 1024), (3, 3, 3), (1, 2, 2), **arguments)


biased_conv_norm = partial(conv_norm, bias=True)


class StraightBottleneck(nn.Module):
    """1×1, grouped 3×3 and 1×1 convolutions of one width, biased and with BatchNorm, and a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output and of the convolutions between; the 3×3 has groups of 32 of them.
        stride: of the 3×3 convolution and of the shortcut, which has a 1×1 convolution if it is not 1.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, drop_path: float) -> None:
        super().__init__()
        self.reduce = biased_conv_norm(in_channels, out_channels)
        self.activation1 = nn.ReLU()
        self.conv = biased_conv_norm(out_channels, out_channels, 3, stride, groups=out_channels // 32)
        self.activation2 = nn.ReLU()
        self.expand = biased_conv_norm(out_channels, out_channels)
        self.drop_path = DropPath(drop_path)
        self.shortcut = nn.Identity() if stride == 1 else biased_conv_norm(in_channels, out_channels, 1, stride)
        self.activation3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.reduce(x))
        y = self.activation2(self.conv(y))
        return self.activation3(self.shortcut(x) + self.drop_path(self.expand(y)))


@register_model
def resnext_29_32x4d(**arguments: Any) -> Classifier:
    """ResNeXt-29 for CIFAR (section 5.3) with 32 groups of 4 channels, smaller than any of table 7.

    >>> resnext_29_32x4d().num_features
    1024
    """
    return cifar_resnext(32, 4, **arguments)


@register_model
def resnext_29_8x64d(**arguments: Any) -> Classifier:
    """ResNeXt-29 for CIFAR (table 7) with 8 groups of 64 channels."""
    return cifar_resnext(8, 64, **arguments)


@register_model
def resnext18_dropout(
    *,
    stages: int = 3,
    num_classes: int = 100,
    in_channels: int = 3,
    image_size: Size = 32,
    drop_path: float = 0.0,
    dropout: float = 0.4,
) -> Classifier:
    """A small ResNeXt of no paper: 7×7/2 stem, two bottlenecks of one width a stage, dropout at the end of each.

    Args:
        stages: 3, 4 or 5, of 64, 128, 256, 512 and 512 channels.
        num_classes: classes; 0 leaves the pooled features.
        in_channels: channels of the images.
        image_size: size of the images it is used for, at least 16, 32 or 64 for 3, 4 or 5 stages.
        drop_path: drop path rate of the last block; it grows linearly from 0 at the first.
        dropout: dropout rate of the map that each stage ends in; half of it after the first block. There is no
            other before the linear layer.

    Raises:
        ValueError: if `stages` is not one of those.
    """
    if stages not in (3, 4, 5):
        raise ValueError(f"stages must be 3, 4 or 5, got {stages}")
    widths, strides = (64, 128, 256, 512, 512)[:stages], (1, 2, 2, 2, 2)[:stages]
    stem = biased_conv_norm(in_channels, 64, 7, 2, activation=nn.ReLU).append(nn.MaxPool2d(3, 2, padding=1))
    body = build_stages([StraightBottleneck] * stages, 64, widths, (2,) * stages, strides, drop_path)
    for stage in body:
        stage.append(nn.Dropout(dropout))
    body[0].insert(1, nn.Dropout(dropout / 2))
    return Classifier(
        stem,
        body,
        PooledHead(widths[-1], num_classes),
        stage_info(widths, strides, 4),
        in_channels=in_channels,
        image_size=image_size,
        initialise_layer=initialise_resnet,
    )
