"""ConvNeXt, Liu et al. 2022, https://arxiv.org/abs/2201.03545, and a ResNet with its inverted bottleneck."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, LayerNorm2d, conv_norm
from cifarblocks.blocks.checks import choose, require_int, require_number
from cifarblocks.blocks.convnext import ConvNeXtBlock
from cifarblocks.blocks.residual import ProjectionShortcut
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_convnext
from cifarblocks.models.resnet import cifar_resnet
from cifarblocks.models.stages import build_transition_stages, stage_info

__all__ = [
    "convnext_atto", "convnext_atto_cifar", "convnext_femto", "convnext_nano", "convnext_pico", "convnext_tiny",
    "convnext_tiny_cifar", "improved_resnet20_convnext",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ConvNeXtArguments(Arguments):
    """Arguments of ConvNeXt and HorNet."""

    layer_scale: Annotated[float, "Initial scale of each branch (LayerScale)."] = 1e-6


def convnext(
    given: ConvNeXtArguments,
    patch_size: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    blocks: Sequence[Callable[..., nn.Module]] = (ConvNeXtBlock,) * 4,
) -> Classifier:
    """Patches, stages of blocks that keep the map, global average pool, LayerNorm, linear layer.

    Args:
        given: the arguments of the classifier.
        patch_size: height, width and stride of the patches that the stem takes.
        widths: channels of each stage.
        depths: blocks of each stage.
        strides: stride of the transition before each stage; that of the first is 1.
        blocks: one for each stage, called as block(channels, layer_scale=layer_scale, drop_path=rate).

    Raises:
        ValueError: if `in_channels` is below 1, or `image_size` below the stride of the last map.
    """
    require_number(layer_scale=given.layer_scale)
    scaled = [partial(block, layer_scale=given.layer_scale) for block in blocks]
    return Classifier(
        patches(given.in_channels, widths[0], patch_size),
        build_transition_stages(scaled, transition, widths, depths, strides, given.drop_path),
        PooledHead(widths[-1], given.num_classes, given.dropout, after=nn.LayerNorm(widths[-1], eps=1e-6)),
        stage_info(widths, strides, patch_size),
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_convnext,
    )


def patches(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    """Patches side by side, LayerNorm: (b, in_channels, h, w) → (b, out_channels, ⌊h/size⌋, ⌊w/size⌋)."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, size, size), LayerNorm2d(out_channels))


def transition(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """LayerNorm, a convolution of patches side by side; at stride 1 a 1×1 convolution."""
    return nn.Sequential(LayerNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, stride, stride))


@registered_with(ConvNeXtArguments)
def convnext_atto(given: ConvNeXtArguments) -> Classifier:
    """The size "atto" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1."""
    return convnext(given, 4, widths=(40, 80, 160, 320), depths=(2, 2, 6, 2), strides=(1, 2, 2, 2))


@registered_with(ConvNeXtArguments)
def convnext_femto(given: ConvNeXtArguments) -> Classifier:
    """The size "femto" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1."""
    return convnext(given, 4, widths=(48, 96, 192, 384), depths=(2, 2, 6, 2), strides=(1, 2, 2, 2))


@registered_with(ConvNeXtArguments)
def convnext_pico(given: ConvNeXtArguments) -> Classifier:
    """The size "pico" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1."""
    return convnext(given, 4, widths=(64, 128, 256, 512), depths=(2, 2, 6, 2), strides=(1, 2, 2, 2))


@registered_with(ConvNeXtArguments)
def convnext_nano(given: ConvNeXtArguments) -> Classifier:
    """The size "nano" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1."""
    return convnext(given, 4, widths=(80, 160, 320, 640), depths=(2, 2, 8, 2), strides=(1, 2, 2, 2))


@registered_with(ConvNeXtArguments)
def convnext_tiny(given: ConvNeXtArguments) -> Classifier:
    """ConvNeXt-T (section 3)."""
    return convnext(given, 4, widths=(96, 192, 384, 768), depths=(3, 3, 9, 3), strides=(1, 2, 2, 2))


@registered_with(ConvNeXtArguments)
def convnext_atto_cifar(given: ConvNeXtArguments) -> Classifier:
    """The stages of `convnext_atto` for small images: patches of 2×2, strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    The last transition is a 1×1 convolution. 64.4 million multiply-adds at 32×32.
    """
    return convnext(given, 2, widths=(40, 80, 160, 320), depths=(2, 2, 6, 2), strides=(1, 2, 2, 1))


@registered_with(ConvNeXtArguments)
def convnext_tiny_cifar(given: ConvNeXtArguments) -> Classifier:
    """The stages of `convnext_tiny` for small images: patches of 2×2, strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    The last transition is a 1×1 convolution. 534.1 million multiply-adds at 32×32.
    """
    return convnext(given, 2, widths=(96, 192, 384, 768), depths=(3, 3, 9, 3), strides=(1, 2, 2, 1))


def depthwise_7x7(channels: int, stride: int) -> nn.Sequential:
    """Depthwise 7×7 convolution, BatchNorm, ReLU: (b, channels, h, w) → (b, channels, ⌈h/stride⌉, ⌈w/stride⌉)."""
    return conv_norm(channels, channels, 7, stride, groups=channels, activation=nn.ReLU)


def dense_3x3(channels: int, stride: int) -> nn.Sequential:
    """Dense 3×3 convolution, BatchNorm, ReLU: (b, channels, h, w) → (b, channels, ⌈h/stride⌉, ⌈w/stride⌉)."""
    return conv_norm(channels, channels, 3, stride, activation=nn.ReLU)


class InvertedBottleneck(nn.Module):
    """ConvNeXt's inverted bottleneck and large kernel in a block of ResNet: BatchNorm, ReLU, ReLU after the addition.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the middle convolution and of the shortcut.
        expansion: width of the middle for each channel of the input; at 1 the first 1×1 convolution is left out.
        convolution: builds the middle, called as convolution(channels, stride).
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Raises:
        ValueError: if `expansion` is below 1.

    >>> InvertedBottleneck(16, 32, stride=2)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        expansion: int = 4,
        convolution: Callable[[int, int], nn.Module] = depthwise_7x7,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, expansion=expansion)
        width = expansion * in_channels
        self.expand = nn.Identity() if expansion == 1 else conv_norm(in_channels, width, activation=nn.ReLU)
        self.convolution = convolution(width, stride)
        self.project = conv_norm(width, out_channels)
        self.drop_path = DropPath(drop_path)
        self.shortcut = ProjectionShortcut(in_channels, out_channels, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.convolution(self.expand(x)))
        return self.activation(self.shortcut(x) + self.drop_path(y))


CONVOLUTIONS = {"depthwise_7x7": depthwise_7x7, "dense_3x3": dense_3x3}


@dataclass(frozen=True, kw_only=True)
class InvertedArguments(Arguments):
    """Arguments of `improved_resnet20_convnext`."""

    convolution: Annotated[str, 'Middle of the blocks: "depthwise_7x7" or "dense_3x3".'] = "depthwise_7x7"
    expansion: Annotated[int, "Width of the middle for each channel of the input; 1 is without inversion."] = 4


@registered_with(InvertedArguments, drop_path=0.05)
def improved_resnet20_convnext(given: InvertedArguments) -> Classifier:
    """Stem, widths, strides and head of `resnet_20`, blocks of `InvertedBottleneck`.

    The ablation: `drop_path=0.0`, `convolution="dense_3x3"`, `expansion=1` (without inversion).

    Raises:
        ValueError: if `convolution` is not "depthwise_7x7" or "dense_3x3", or `expansion` below 1.
    """
    convolution = choose(CONVOLUTIONS, convolution=given.convolution)
    return cifar_resnet(given, 20, partial(InvertedBottleneck, expansion=given.expansion, convolution=convolution))
