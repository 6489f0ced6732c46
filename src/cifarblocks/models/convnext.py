"""ConvNeXt, Liu et al. 2022, https://arxiv.org/abs/2201.03545, and a ResNet with its inverted bottleneck."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, LayerNorm2d, conv_norm
from cifarblocks.blocks.convnext import ConvNeXtBlock
from cifarblocks.blocks.residual import ProjectionShortcut
from cifarblocks.blocks.sizes import require_at_least
from cifarblocks.models.arguments import Arguments
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_convnext
from cifarblocks.models.resnet import resnet
from cifarblocks.models.stages import build_transition_stages, stage_info
from cifarblocks.models.stems import STEMS
from cifarblocks.registry import register_model


def convnext(
    blocks: Sequence[Callable[..., nn.Module]],
    patch_size: int,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
    /,
    *,
    layer_scale: float = 1e-6,
    **arguments: Any,
) -> Classifier:
    """Patches, stages of blocks that keep the map, global average pool, LayerNorm, linear layer.

    Args:
        blocks: one for each stage, called as block(channels, layer_scale=layer_scale, drop_path=rate).
        patch_size: height, width and stride of the patches that the stem takes.
        widths: channels of each stage.
        depths: blocks of each stage.
        strides: stride of the transition before each stage; that of the first is 1.
        arguments: those of `Arguments`.
        layer_scale: first value of the branches' scales; at the paper's, 1e-6, a branch adds next to nothing at first.

    Raises:
        ValueError: if `in_channels` is below 1, or `image_size` below the stride of the last map.
    """
    given = Arguments(**arguments)
    scaled = [partial(block, layer_scale=layer_scale) for block in blocks]
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
    """A convolution of patches side by side, LayerNorm: (b, in_channels, h, w) → (b, out_channels, ⌊h/size⌋, ⌊w/size⌋).

    Raises:
        ValueError: if `in_channels` is below 1.
    """
    require_at_least(1, in_channels=in_channels)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, size, size), LayerNorm2d(out_channels))


def transition(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """LayerNorm, a convolution of patches side by side; at stride 1 a 1×1 convolution."""
    return nn.Sequential(LayerNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, stride, stride))


def doubled(width: int) -> list[int]:
    """The widths of four stages, each twice the one before."""
    return [width, 2 * width, 4 * width, 8 * width]


def imagenet_convnext(width: int, depths: Sequence[int], /, **arguments: Any) -> Classifier:
    """The paper's plan: patches of 4×4, maps of 1/4, 1/8, 1/16 and 1/32, `width` channels in the first stage."""
    return convnext([ConvNeXtBlock] * 4, 4, doubled(width), depths, (1, 2, 2, 2), **arguments)


def cifar_convnext(width: int, depths: Sequence[int], /, **arguments: Any) -> Classifier:
    """The plan for small images: patches of 2×2, maps of 1/2, 1/4, 1/8 and 1/8; arguments as `imagenet_convnext`."""
    return convnext([ConvNeXtBlock] * 4, 2, doubled(width), depths, (1, 2, 2, 1), **arguments)


@register_model
def convnext_atto(**arguments: Any) -> Classifier:
    """The size "atto" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1.

    >>> convnext_atto().num_features
    320
    """
    return imagenet_convnext(40, (2, 2, 6, 2), **arguments)


@register_model
def convnext_femto(**arguments: Any) -> Classifier:
    """The size "femto" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1."""
    return imagenet_convnext(48, (2, 2, 6, 2), **arguments)


@register_model
def convnext_pico(**arguments: Any) -> Classifier:
    """The size "pico" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1."""
    return imagenet_convnext(64, (2, 2, 6, 2), **arguments)


@register_model
def convnext_nano(**arguments: Any) -> Classifier:
    """The size "nano" of version 2, https://arxiv.org/abs/2301.00808, with the blocks of version 1."""
    return imagenet_convnext(80, (2, 2, 8, 2), **arguments)


@register_model
def convnext_tiny(**arguments: Any) -> Classifier:
    """ConvNeXt-T (section 3)."""
    return imagenet_convnext(96, (3, 3, 9, 3), **arguments)


@register_model
def convnext_atto_cifar(**arguments: Any) -> Classifier:
    """The stages of `convnext_atto` for small images: patches of 2×2, strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    The last transition is a 1×1 convolution. 64.4 million multiply-adds at 32×32.
    """
    return cifar_convnext(40, (2, 2, 6, 2), **arguments)


@register_model
def convnext_tiny_cifar(**arguments: Any) -> Classifier:
    """The stages of `convnext_tiny` for small images: patches of 2×2, strides 1, 2, 2, 1, maps of 16, 8, 4 and 4.

    The last transition is a 1×1 convolution. 534.1 million multiply-adds at 32×32.
    """
    return cifar_convnext(96, (3, 3, 9, 3), **arguments)


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
        require_at_least(1, expansion=expansion)
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


@register_model
def improved_resnet20_convnext(
    *, convolution: str = "depthwise_7x7", expansion: int = 4, drop_path: float = 0.05, **arguments: Any
) -> Classifier:
    """Stem, widths, strides and head of `resnet_20`, blocks of `InvertedBottleneck`.

    The ablation: `drop_path=0.0`, `convolution="dense_3x3"`, `expansion=1` (without inversion).

    Raises:
        ValueError: if `convolution` is not "depthwise_7x7" or "dense_3x3", or `expansion` below 1.
    """
    if convolution not in CONVOLUTIONS:
        raise ValueError(f"convolution must be one of {list(CONVOLUTIONS)}, got {convolution!r}")
    block = partial(InvertedBottleneck, expansion=expansion, convolution=CONVOLUTIONS[convolution])
    return resnet(block, STEMS["cifar"], 16, (16, 32, 64), (3, 3, 3), (1, 2, 2), drop_path=drop_path, **arguments)
