"""GhostNet, Han et al. 2020, https://arxiv.org/abs/1911.11907."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, conv_norm
from cifarblocks.blocks.checks import choose
from cifarblocks.blocks.ghost import CopyModule, GhostBottleneck, GhostModule, divisible
from cifarblocks.blocks.residual import ProjectionShortcut
from cifarblocks.models.arguments import Arguments, registered_with
from cifarblocks.models.classifier import Classifier, PooledHead
from cifarblocks.models.resnet import cifar_resnet
from cifarblocks.models.stages import drop_path_rates, stage_info
from cifarblocks.models.stems import STEMS, Stem

__all__ = ["ghost_resnet_20", "ghost_resnet_32", "ghostnet_050", "ghostnet_100", "ghostnet_100_cifar", "ghostnet_130"]

# Table 1, a stage for each size of map: kernel, hidden channels, output channels, width of the gate.
STAGES = (
    ((3, 16, 16, 0.0),),
    ((3, 48, 24, 0.0), (3, 72, 24, 0.0)),
    ((5, 72, 40, 0.25), (5, 120, 40, 0.25)),
    ((3, 240, 80, 0.0), (3, 200, 80, 0.0), *[(3, 184, 80, 0.0)] * 2, (3, 480, 112, 0.25), (3, 672, 112, 0.25)),
    ((5, 672, 160, 0.25), (5, 960, 160, 0.0), (5, 960, 160, 0.25), (5, 960, 160, 0.0), (5, 960, 160, 0.25)),
)
STRIDED_STEM = Stem(partial(conv_norm, kernel_size=3, stride=2, activation=nn.ReLU), 2)
CHEAP = {"depthwise": GhostModule, "copy": CopyModule}


def ghostnet(given: Arguments, width: float, stem: Stem, *, strides: Sequence[int]) -> Classifier:
    """Stem of 16 channels, ghost bottlenecks, 1×1 convolution, average, hidden layer of 1280, linear layer.

    The weights are drawn as torch does, as in the authors' code.

    Args:
        given: the arguments of the classifier.
        width: factor of all channels except those of the hidden layer; the result is rounded to multiples of 4.
        stem: the first layers.
        strides: stride of the first block of each of the five stages.
    """
    stem_channels = channels = divisible(16 * width, 4)
    stages, widths = [], []
    rates = drop_path_rates(given.drop_path, [len(rows) for rows in STAGES])
    for rows, stride, stage_rates in zip(STAGES, strides, rates, strict=True):
        blocks = []
        for (kernel_size, hidden, out, se_ratio), rate in zip(rows, stage_rates, strict=True):
            hidden, out = divisible(hidden * width, 4), divisible(out * width, 4)
            blocks.append(GhostBottleneck(channels, hidden, out, kernel_size, stride, se_ratio, drop_path=rate))
            channels, stride = out, 1
        stages.append(nn.Sequential(*blocks))
        widths.append(channels)
    last = divisible(960 * width, 4)
    head = PooledHead(
        channels,
        given.num_classes,
        given.dropout,
        before=conv_norm(channels, last, activation=nn.ReLU),
        after=nn.Sequential(nn.Linear(last, 1280), nn.ReLU()),
        hidden_features=1280,
    )
    return Classifier(
        stem.build(given.in_channels, stem_channels),
        stages,
        head,
        stage_info(widths, strides, stem.stride),
        in_channels=given.in_channels,
        image_size=given.image_size,
    )


class GhostBasicBlock(nn.Module):
    """The basic block of ResNet with ghost modules for its 3×3 convolutions (section 4.1.2).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first module and of the shortcut.
        module: builds a module, as `GhostModule`.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, module: Callable[..., nn.Module], drop_path: float
    ) -> None:
        super().__init__()
        self.ghost1 = module(in_channels, out_channels, 3, stride=stride)
        self.ghost2 = module(out_channels, out_channels, 3, activation=nn.Identity)
        self.drop_path = DropPath(drop_path)
        self.shortcut = ProjectionShortcut(in_channels, out_channels, stride)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost2(self.ghost1(x))
        return self.activation(self.shortcut(x) + self.drop_path(y))


@dataclass(frozen=True, kw_only=True)
class GhostResNetArguments(Arguments):
    """Arguments of the residual networks of ghost modules."""

    ratio: Annotated[int, "Output channels for each channel of the 3×3 convolutions, from 1 to 16."] = 2
    cheap: Annotated[str, 'Source of the other channels: "depthwise", a 3×3 convolution, or "copy".'] = "depthwise"


def ghost_resnet(given: GhostResNetArguments, depth: int) -> Classifier:
    """The CIFAR ResNet of `depth` layers with ghost modules in its blocks; the stem is a plain convolution.

    Raises:
        ValueError: if `ratio` or `cheap` is not one of the choices.
    """
    module = partial(choose(CHEAP, cheap=given.cheap), ratio=given.ratio)
    return cifar_resnet(given, depth, partial(GhostBasicBlock, module=module))


@registered_with(Arguments)
def ghostnet_050(given: Arguments) -> Classifier:
    """GhostNet 0.5× (table 7): half the channels."""
    return ghostnet(given, 0.5, STRIDED_STEM, strides=(1, 2, 2, 2, 2))


@registered_with(Arguments)
def ghostnet_100(given: Arguments) -> Classifier:
    """GhostNet 1.0× (tables 1 and 7)."""
    return ghostnet(given, 1.0, STRIDED_STEM, strides=(1, 2, 2, 2, 2))


@registered_with(Arguments)
def ghostnet_130(given: Arguments) -> Classifier:
    """GhostNet 1.3× (table 7): 1.3 times the channels."""
    return ghostnet(given, 1.3, STRIDED_STEM, strides=(1, 2, 2, 2, 2))


@registered_with(Arguments)
def ghostnet_100_cifar(given: Arguments) -> Classifier:
    """GhostNet 1.0× with a 3×3 stem at full resolution and maps of 32, 32, 16, 8 and 4: 43 M multiply-adds at 32×32.

    The strides of the stem and of the second stage are 1; without a stride a block has no depthwise convolution.
    """
    return ghostnet(given, 1.0, STEMS["cifar"], strides=(1, 1, 2, 2, 2))


@registered_with(GhostResNetArguments)
def ghost_resnet_20(given: GhostResNetArguments) -> Classifier:
    """ResNet-20 for CIFAR with ghost modules, as section 4.1.2 makes them of ResNet-56."""
    return ghost_resnet(given, 20)


@registered_with(GhostResNetArguments)
def ghost_resnet_32(given: GhostResNetArguments) -> Classifier:
    """ResNet-32 for CIFAR with ghost modules, as section 4.1.2 makes them of ResNet-56."""
    return ghost_resnet(given, 32)
