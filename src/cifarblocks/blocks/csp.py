"""Cross stage partial networks: CSPNet, Wang et al. 2020, https://arxiv.org/abs/1911.11929."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, conv_norm
from cifarblocks.blocks.checks import require_int, require_part, require_rate

Activation = Callable[[], nn.Module]
leaky_relu = partial(nn.LeakyReLU, 0.1)  # Darknet's slope


class CSPBottleneck(nn.Module):
    """The block of CSPResNet: 1×1, 3×3 and 1×1 convolutions and a shortcut, with an activation after the addition.

    Formula: y = φ(x + BN(conv1×1(φ(BN(conv3×3(φ(BN(conv1×1(x)))))))))), φ the activation

    Origin: written from the paper; equal to timm's BottleneckBlock (Apache-2.0).

    Args:
        channels: channels of the input and of the output.
        hidden_channels: channels of the 3×3 convolution; by default one half of the channels.
        groups: groups of the 3×3 convolution.
        activation: builds the activation, LeakyReLU of slope 0.1 as in Darknet.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 13·c²/4 + 4·c parameters, 13·c²/4·h·w multiply-adds, c even.

    Raises:
        ValueError: if a size is below 1, `groups` does not divide the hidden channels, or `drop_path` is not in [0, 1).

    >>> CSPBottleneck(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None = None,
        *,
        groups: int = 1,
        activation: Activation = leaky_relu,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden_channels is None:
            require_int(2, channels=channels)
            hidden_channels = channels // 2
        require_int(1, channels=channels, hidden_channels=hidden_channels, groups=groups)
        require_rate(drop_path=drop_path)
        if hidden_channels % groups:
            raise ValueError(f"hidden_channels must be divisible by groups ({groups}), got {hidden_channels}")
        self.reduce = conv_norm(channels, hidden_channels, 1, activation=activation)
        self.conv = conv_norm(hidden_channels, hidden_channels, 3, groups=groups, activation=activation)
        self.expand = conv_norm(hidden_channels, channels, 1)
        self.drop_path = DropPath(drop_path)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.conv(self.reduce(x)))
        return self.activation(x + self.drop_path(y))


class DarknetBlock(nn.Module):
    """The block of CSPDarknet: 1×1 and 3×3 convolutions and a shortcut, without activation after the addition.

    Formula: y = x + φ(BN(conv3×3(φ(BN(conv1×1(x)))))), φ the activation

    Origin: written from the paper; equal to timm's DarkBlock (Apache-2.0).

    Args:
        channels: channels of the input and of the output.
        hidden_channels: channels between the convolutions; by default as many.
        activation: builds the activation, LeakyReLU of slope 0.1 as in Darknet.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 10·c² + 4·c parameters, 10·c²·h·w multiply-adds.

    Raises:
        ValueError: if a size is below 1, or `drop_path` is not in [0, 1).

    >>> DarknetBlock(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None = None,
        *,
        activation: Activation = leaky_relu,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden_channels = channels if hidden_channels is None else hidden_channels
        require_int(1, channels=channels, hidden_channels=hidden_channels)
        require_rate(drop_path=drop_path)
        self.reduce = conv_norm(channels, hidden_channels, 1, activation=activation)
        self.conv = conv_norm(hidden_channels, channels, 3, activation=activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.conv(self.reduce(x)))


class CSPStage(nn.Module):
    """A stage whose blocks see one half of the channels; the other half crosses it (section 3.1).

    A strided 3×3 convolution comes first, then a 1×1 convolution that is split into two branches. One branch has the
    blocks and a transition. Both are concatenated for a last transition. By default it is the stage of CSPResNet. The
    stage of CSPDarknet is

        CSPStage(c, d, depth, 2, branch_channels=d // 2, block=DarknetBlock, down_channels=d,
                 split_activation=partial(nn.LeakyReLU, 0.1))

    The authors' cfg files differ from timm. As in timm, the branch that crosses is concatenated first (a permutation of
    weights), and there is one strided convolution (csresnet50.cfg has three). The slope of LeakyReLU is Darknet's 0.1
    (timm 0.01).

    Formula: a, b = halves of conv1×1(down(x)), y = conv1×1(concat(a, conv1×1(blocks(b)))), BN and activation after each

    Origin: written from the paper; equal to timm's CrossStage (Apache-2.0). The authors' cfg files have no licence.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        depth: number of blocks.
        stride: stride of the first convolution; at 1 there is no such convolution.
        branch_channels: channels of each branch; by default `out_channels`.
        block: builds a block from its channels and `drop_path`.
        down_channels: channels after the strided convolution, if there is one; by default `in_channels`.
        down_groups: groups of the strided convolution.
        split_activation: builds the module before the split: the identity in CSPResNet, the activation in CSPDarknet.
        activation: builds the other activations.
        drop_path: probability of dropping a block's branch in training, or one for each block.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 2·c·d + (3 + 13·n/4)·d² + (8 + 4·n)·d parameters, (2·c·d + (3 + 13·n/4)·d²)·h·w multiply-adds, from c to d
        channels at stride 1, d even; n is the depth.

    Raises:
        ValueError: if a size is below 1 or not divisible by its groups, if the branches are too narrow for their block,
            or if the number of drop path rates is not that of the blocks.

    >>> CSPStage(64, 128, depth=2, stride=2)(torch.randn(2, 64, 7, 5)).shape
    torch.Size([2, 128, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        stride: int = 1,
        *,
        branch_channels: int | None = None,
        block: Callable[..., nn.Module] = CSPBottleneck,
        down_channels: int | None = None,
        down_groups: int = 1,
        split_activation: Activation = nn.Identity,
        activation: Activation = leaky_relu,
        drop_path: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_int(0, depth=depth)
        require_part(1, "drop_path", block=block)
        require_part(split_activation=split_activation, activation=activation)
        rates: list[Any] = list(drop_path) if isinstance(drop_path, Sequence) else [drop_path] * depth
        for rate in rates or [drop_path]:
            require_rate(drop_path=rate)
        if len(rates) != depth:
            raise ValueError(f"drop_path must have a rate for each of {depth} blocks, got {len(rates)}")
        branch = out_channels if branch_channels is None else branch_channels
        down = in_channels if down_channels is None else down_channels
        require_int(1, branch_channels=branch, down_channels=down, down_groups=down_groups)
        for name, width in (("in_channels", in_channels), ("down_channels", down)):
            if stride != 1 and width % down_groups:
                raise ValueError(f"{name} must be divisible by down_groups ({down_groups}), got {width}")
        self.down = (
            nn.Identity()
            if stride == 1
            else conv_norm(in_channels, down, 3, stride, groups=down_groups, activation=activation)
        )
        self.split = conv_norm(in_channels if stride == 1 else down, 2 * branch, 1, activation=split_activation)
        self.blocks = nn.Sequential(*[block(branch, drop_path=rate) for rate in rates])
        self.branch_transition = conv_norm(branch, branch, 1, activation=activation)
        self.transition = conv_norm(2 * branch, out_channels, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        crossing, branch = self.split(self.down(x)).chunk(2, dim=1)
        branch = self.branch_transition(self.blocks(branch))
        return self.transition(torch.cat([crossing, branch], dim=1))
