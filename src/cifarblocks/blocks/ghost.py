"""Ghost convolutions: GhostNet, Han et al. 2020, https://arxiv.org/abs/1911.11907."""

import torch
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, conv_norm
from cifarblocks.blocks.checks import require_int, require_number, require_odd, require_rate
from cifarblocks.blocks.se import SqueezeExcite


class GhostModule(nn.Module):
    """A convolution for a few channels, and cheap depthwise convolutions of those for the rest (section 3.1).

    The paper allows any linear operation as the cheap one. As in the authors' code it is one depthwise convolution, and
    both halves have BatchNorm and the same activation. If `ratio` does not divide `out_channels`, the last cheap
    channels are computed and dropped, as in that code. `ratio=1` gives a plain convolution, where that code fails.

    Formula: y = concat(p, q), p = ReLU(BN(conv(x))), q = ReLU(BN(depthwise(p)))

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: kernel size of the first convolution, odd.
        ratio: ⌈out_channels / ratio⌉ channels come from the first convolution; each makes ratio - 1 more.
        stride: stride of the first convolution.
        cheap_kernel_size: kernel size of the depthwise convolutions, odd.
        activation: builds the activation of both halves.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: (c + 13)·d/2 parameters, (c + 9)·d/2·h·w multiply-adds, from c to d channels, d even, with the default
        sizes.

    Raises:
        ValueError: if a size is below 1, a kernel size even, or `ratio` above `out_channels`.

    >>> GhostModule(16, 33, ratio=3)(torch.randn(2, 16, 8, 5)).shape
    torch.Size([2, 33, 8, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        ratio: int = 2,
        *,
        stride: int = 1,
        cheap_kernel_size: int = 3,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        require_odd(cheap_kernel_size=cheap_kernel_size)
        primary = primary_channels(out_channels, ratio)
        self.cheap_channels = out_channels - primary
        self.primary = conv_norm(in_channels, primary, kernel_size, stride, activation=activation)
        self.cheap = (
            conv_norm(primary, primary * (ratio - 1), cheap_kernel_size, groups=primary, activation=activation)
            if ratio > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        if self.cheap is None:
            return y
        return torch.cat([y, self.cheap(y)[:, : self.cheap_channels]], dim=1)


class CopyModule(nn.Module):
    """A convolution for a few channels, and copies of them for the rest: a GhostModule without cheap kernels.

    Formula: y = concat(p, p, ...), p = ReLU(BN(conv(x))), without the last copies if there are too many

    Origin: the ablation of https://github.com/GH2050/Deep-Learning-2025-Spring (MIT), rewritten.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: kernel size of the convolution, odd.
        ratio: ⌈out_channels / ratio⌉ channels come from the convolution.
        stride: stride of the convolution.
        activation: builds the activation.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: c·d/2 + d parameters, c·d/2·h·w multiply-adds, from c to d channels, d even, with the default sizes.

    Raises:
        ValueError: if a size is below 1, a kernel size even, or `ratio` above `out_channels`.

    >>> CopyModule(16, 33, ratio=3)(torch.randn(2, 16, 8, 5)).shape
    torch.Size([2, 33, 8, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        ratio: int = 2,
        *,
        stride: int = 1,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        primary = primary_channels(out_channels, ratio)
        self.whole_copies, self.last_channels = divmod(out_channels, primary)
        self.primary = conv_norm(in_channels, primary, kernel_size, stride, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        return torch.cat([y] * self.whole_copies + [y[:, : self.last_channels]], dim=1)


class GhostBottleneck(nn.Module):
    """Expand by a GhostModule, stride, gate, project by a second one, and add a shortcut (section 3.2, figure 3).

    As in the authors' code, no activation follows the second module or the addition. The shortcut has a depthwise
    convolution of the block's kernel. The gate is a hard sigmoid, with a width rounded to a multiple of 4.

    Formula: y = shortcut(x) + ghost₂(gate(BN(depthwise(ghost₁(x))))); the depthwise only with a stride

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        in_channels: channels of the input.
        hidden_channels: channels between the modules.
        out_channels: channels of the output.
        kernel_size: kernel size of the strided depthwise convolutions, odd.
        stride: stride of the block; at 1 it has no depthwise convolution between the modules.
        se_ratio: width of the gate as a share of `hidden_channels`; 0 for no gate.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: c·e + 13·(c + e)/2 parameters, (c·e + 9·(c + e)/2)·h·w multiply-adds, keeping c channels and the map, e
        hidden channels, both even, no gate.

    Raises:
        ValueError: if a size is below 1, `hidden_channels` or `out_channels` below 2, `kernel_size` even, `se_ratio`
            below 0, or `drop_path` not in [0, 1).

    >>> GhostBottleneck(16, 48, 24, stride=2, se_ratio=0.25)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 24, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        se_ratio: float = 0.0,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(2, hidden_channels=hidden_channels, out_channels=out_channels)
        require_int(1, stride=stride)
        require_number(0, se_ratio=se_ratio)
        require_odd(kernel_size=kernel_size)
        require_rate(drop_path=drop_path)
        self.expand = GhostModule(in_channels, hidden_channels)
        self.depthwise = (
            conv_norm(hidden_channels, hidden_channels, kernel_size, stride, groups=hidden_channels)
            if stride > 1
            else nn.Identity()
        )
        self.gate = (
            SqueezeExcite(hidden_channels, divisible(se_ratio * hidden_channels, 4), gate=nn.Hardsigmoid)
            if se_ratio
            else nn.Identity()
        )
        self.project = GhostModule(hidden_channels, out_channels, activation=nn.Identity)
        self.drop_path = DropPath(drop_path)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else nn.Sequential(
                conv_norm(in_channels, in_channels, kernel_size, stride, groups=in_channels),
                conv_norm(in_channels, out_channels),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.depthwise(self.expand(x)))
        return self.drop_path(self.project(y)) + self.shortcut(x)


def primary_channels(out_channels: int, ratio: int) -> int:
    """Return ⌈out_channels / ratio⌉, the number of `out_channels` that come from a convolution.

    Raises:
        ValueError: if one of them is below 1, or `ratio` above `out_channels`.
    """
    require_int(1, out_channels=out_channels, ratio=ratio)
    if ratio > out_channels:
        raise ValueError(f"ratio must be from 1 to out_channels ({out_channels}), got {ratio}")
    return -(-out_channels // ratio)


def divisible(value: float, divisor: int) -> int:
    """Return the multiple of `divisor` nearest to `value`, halves upward, at least `divisor` and 0.9 of `value`.

    >>> [divisible(v, 4) for v in (1, 18, 30, 168, 9.5)]
    [4, 20, 32, 168, 12]
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * value else nearest + divisor
