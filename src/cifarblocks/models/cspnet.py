"""CSPNet, Wang et al. 2020, https://arxiv.org/abs/1911.11929."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.csp import CSPBottleneck, CSPStage, DarknetBlock
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.initialise import initialise_resnet
from cifarblocks.models.stages import drop_path_rates, stage_info
from cifarblocks.models.stems import Stem, imagenet_stem

__all__ = ["cspdarknet53", "cspresnet50", "cspresnet50_cifar", "cspresnet_nano_cifar", "cspresnext50"]

# slope of timm's weights; Darknet has 0.1
leaky_relu = partial(nn.LeakyReLU, 0.01)


def cspnet(
    given: Arguments,
    stages: Sequence[Callable[..., CSPStage]],
    stem: Stem,
    stem_channels: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    strides: Sequence[int],
) -> Classifier:
    """Stem, cross stages, global average pool, linear layer.

    Args:
        given: the arguments of the classifier.
        stages: each called as stage(in_channels, out_channels, depth, stride, drop_path=rates).
        stem: the first layers.
        stem_channels: output channels of the stem.
        widths: output channels of each stage.
        depths: blocks of each stage.
        strides: stride of each stage.
    """
    shapes = zip(stages, (stem_channels, *widths[:-1]), widths, depths, strides, strict=True)
    rates = drop_path_rates(given.drop_path, depths)
    body = [
        nn.Sequential(stage(*shape, drop_path=stage_rates))
        for (stage, *shape), stage_rates in zip(shapes, rates, strict=True)
    ]
    return Classifier(
        stem.build(given.in_channels, stem_channels),
        body,
        PooledHead(widths[-1], given.num_classes, given.dropout),
        stage_info(widths, strides, stem.stride),
        in_channels=given.in_channels,
        image_size=given.image_size,
        initialise_layer=initialise_resnet,
    )


# The stage of CSPResNet: each branch as wide as the output, its blocks half as wide inside.
resnet_stage = partial(CSPStage, block=partial(CSPBottleneck, activation=leaky_relu), activation=leaky_relu)


def resnext_stage(
    in_channels: int, out_channels: int, depth: int, stride: int, *, drop_path: Sequence[float]
) -> CSPStage:
    """The stage of CSPResNeXt: each branch half as wide as the output, all 3×3 convolutions in 32 groups."""
    branch = out_channels // 2
    return CSPStage(
        in_channels,
        out_channels,
        depth,
        stride,
        branch_channels=branch,
        block=partial(CSPBottleneck, hidden_channels=branch, groups=32, activation=leaky_relu),
        down_groups=32,
        activation=leaky_relu,
        drop_path=drop_path,
    )


def darknet_stage(
    share: float, in_channels: int, out_channels: int, depth: int, stride: int, *, drop_path: Sequence[float]
) -> CSPStage:
    """The stage of CSPDarknet: the strided convolution widens the map, and the split is activated.

    Each branch has a `share` of the output's width, and its blocks one half inside.
    """
    return CSPStage(
        in_channels,
        out_channels,
        depth,
        stride,
        branch_channels=int(share * out_channels),
        block=partial(DarknetBlock, hidden_channels=out_channels // 2, activation=leaky_relu),
        down_channels=out_channels,
        split_activation=leaky_relu,
        activation=leaky_relu,
        drop_path=drop_path,
    )


RESNET, RESNEXT = [resnet_stage] * 4, [resnext_stage] * 4
DARKNET = [partial(darknet_stage, 1.0), *[partial(darknet_stage, 0.5)] * 4]
POOLED = Stem(partial(imagenet_stem, activation=leaky_relu), 4)
PLAIN = Stem(partial(conv_norm, kernel_size=3, activation=leaky_relu), 1)


@registered_with(Arguments)
def cspresnet50(given: Arguments) -> Classifier:
    """CSPResNet-50 as in timm."""
    return cspnet(given, RESNET, POOLED, 64, widths=(128, 256, 512, 1024), depths=(3, 3, 5, 2), strides=(1, 2, 2, 2))


@registered_with(Arguments)
def cspresnext50(given: Arguments) -> Classifier:
    """CSPResNeXt-50 as in timm."""
    return cspnet(given, RESNEXT, POOLED, 64, widths=(256, 512, 1024, 2048), depths=(3, 3, 5, 2), strides=(1, 2, 2, 2))


@registered_with(Arguments)
def cspdarknet53(given: Arguments) -> Classifier:
    """CSPDarknet-53 as in timm, the backbone of YOLOv4, https://arxiv.org/abs/2004.10934."""
    return cspnet(given, DARKNET, PLAIN, 32, widths=(64, 128, 256, 512, 1024), depths=(1, 2, 8, 8, 4), strides=(2,) * 5)


@registered_with(Arguments)
def cspresnet50_cifar(given: Arguments) -> Classifier:
    """CSPResNet-50 with a 3×3 stem at full resolution, maps of 32, 16, 8 and 4: 1,092 M multiply-adds at 32×32."""
    return cspnet(given, RESNET, PLAIN, 64, widths=(128, 256, 512, 1024), depths=(3, 3, 5, 2), strides=(1, 2, 2, 2))


@registered_with(Arguments)
def cspresnet_nano_cifar(given: Arguments) -> Classifier:
    """A narrow CSPResNet-50 (not from a paper), stem and maps of `cspresnet50_cifar`: 155 M multiply-adds at 32×32."""
    return cspnet(given, RESNET, PLAIN, 32, widths=(48, 96, 192, 384), depths=(3, 3, 5, 2), strides=(1, 2, 2, 2))
