"""Mobile inverted bottlenecks: MobileNetV2, https://arxiv.org/abs/1801.04381, EfficientNet, CoAtNet, and with LSK."""

from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, conv_norm
from cifarblocks.blocks.checks import require_int, require_odds, require_part, require_rate
from cifarblocks.blocks.se import SqueezeExcite

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class InvertedResidual(nn.Module):
    """1×1, depthwise and 1×1 convolutions, BatchNorm after each: EfficientNet's form, https://arxiv.org/abs/1905.11946.

    SiLU follows the first two. The gate is a quarter of `in_channels` wide, as in the authors' code. There is no
    shortcut where the shape changes.

    Formula: y = x + BN(conv1×1(gate(SiLU(BN(depthwise3×3(SiLU(BN(conv1×1(x))))))))), x + only where the shape is kept

    Origin: written from the papers; equal to torchvision's MBConv (BSD-3) where it rounds nothing.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the depthwise convolution.
        expansion: hidden channels for each of `in_channels`; at 1 there is no first convolution.
        kernel_size: kernel size of the depthwise convolution, odd.
        gate: called as gate(hidden channels), such as `ECA`; by default the squeeze-and-excitation described above.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 10·c² + 233·c/4 parameters, (8·c² + 36·c)·h·w + 2·c² multiply-adds, keeping c channels and the map, 4 | c.

    Raises:
        ValueError: if a size is below 1, `kernel_size` even, or `drop_path` not in [0, 1).

    >>> InvertedResidual(16, 16)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 16, 7, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expansion: int = 4,
        *,
        kernel_size: int = 3,
        gate: Callable[[int], nn.Module] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride, expansion=expansion)
        require_rate(drop_path=drop_path)
        hidden = expansion * in_channels
        if gate is None:
            gate = partial(SqueezeExcite, hidden_channels=max(1, in_channels // 4), activation=nn.SiLU)
        require_part(1, gate=gate)
        self.expand = nn.Identity() if expansion == 1 else conv_norm(in_channels, hidden, activation=nn.SiLU)
        self.depthwise = conv_norm(hidden, hidden, kernel_size, stride, groups=hidden, activation=nn.SiLU)
        self.gate = gate(hidden)
        self.project = conv_norm(hidden, out_channels)
        self.drop_path = DropPath(drop_path)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + self.drop_path(y) if self.has_shortcut else y


class MBConv(nn.Module):
    """CoAtNet's pre-norm inverted bottleneck: https://arxiv.org/abs/2106.04803 appendix A.1, equations 4-5.

    The stride is on the first 1×1 convolution, as in equation 5. Other code has it on the depthwise convolution; table
    9 of the paper compares both. The shortcut is a max pool, 3×3 because the paper gives no size, and a 1×1 convolution
    with bias where the channels change. Hidden channels are a multiple of the output's, and the gate is a quarter of
    the output wide. The last convolution has a bias and no norm. The activation is GELU.

    Formula: y = shortcut(x) + conv1×1(gate(GELU(BN(depthwise3×3(GELU(BN(conv1×1(BN(x)))))))))

    Origin: written from the paper; equal to timm's MbConvBlock (Apache-2.0) with stride_mode="1x1", pool_type="max".

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        expansion: hidden channels for each of `out_channels`.
        gate: called as gate(hidden channels), such as `ECA`; by default the squeeze-and-excitation described above.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 10·c² + 237·c/4 parameters, (8·c² + 36·c)·h·w + 2·c² multiply-adds, keeping c channels and the map, 4 | c.

    Raises:
        ValueError: if a size is below 1, or `drop_path` not in [0, 1).

    >>> MBConv(16, 24, stride=2)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 24, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expansion: int = 4,
        *,
        gate: Callable[[int], nn.Module] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride, expansion=expansion)
        require_rate(drop_path=drop_path)
        hidden = expansion * out_channels
        if gate is None:
            gate = partial(SqueezeExcite, hidden_channels=max(1, out_channels // 4), activation=nn.SiLU)
        require_part(1, gate=gate)
        self.norm = nn.BatchNorm2d(in_channels)
        self.expand = conv_norm(in_channels, hidden, 1, stride, activation=nn.GELU)
        self.depthwise = conv_norm(hidden, hidden, 3, groups=hidden, activation=nn.GELU)
        self.gate = gate(hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1)
        self.drop_path = DropPath(drop_path)
        self.shortcut = pooled_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depthwise(self.expand(self.norm(x)))))
        return self.shortcut(x) + self.drop_path(y)


class LSKMBConv(nn.Module):
    """An inverted bottleneck whose depthwise convolution is chosen from several sizes, channel by channel.

    The choice is a softmax over the branches, computed from the average of their sum as in SKNet
    (https://arxiv.org/abs/1903.06586, equations 1-6). The project that first combined the two computed it from the
    expanded input. BatchNorm and ReLU6 follow the first two convolutions, BatchNorm the last. The gate is a quarter of
    the hidden channels wide. There is no shortcut where the shape changes.

    Formula: y = x + BN(conv1×1(gate(Σₖ aₖ ⊙ uₖ))), uₖ = ReLU6(BN(depthwise_k×k(ReLU6(BN(conv1×1(x)))))),
        a = softmax over k of W₂ ReLU(W₁ mean(Σₖ uₖ)), x + only where the shape is kept

    Origin: https://github.com/GH2050/Deep-Learning-2025-Spring (MIT), rewritten.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the depthwise convolutions.
        kernel_sizes: kernel sizes of the depthwise convolutions, odd, one a branch.
        expansion: hidden channels for each of `in_channels`; the first convolution is there even at 1.
        reduction: the choice is made from hidden / reduction features, at least 1.
        gate: called as gate(hidden channels), such as `ECA`; by default the squeeze-and-excitation described above.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 24·c² + 371·c parameters, (8·c² + 332·c)·h·w + 16·c² multiply-adds, keeping c channels and the map, c even.

    Raises:
        ValueError: if a size is below 1, `kernel_sizes` empty or one of them even, or `drop_path` not in [0, 1).

    >>> LSKMBConv(16, 16)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 16, 7, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        *,
        expansion: int = 4,
        reduction: int = 8,
        gate: Callable[[int], nn.Module] | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_int(1, expansion=expansion, reduction=reduction)
        require_odds(kernel_sizes=kernel_sizes)
        require_rate(drop_path=drop_path)
        hidden = expansion * in_channels
        if gate is None:
            gate = partial(SqueezeExcite, hidden_channels=max(1, hidden // 4), activation=nn.ReLU6)
        require_part(1, gate=gate)
        self.expand = conv_norm(in_channels, hidden, activation=nn.ReLU6)
        self.branches = nn.ModuleList(
            conv_norm(hidden, hidden, size, stride, groups=hidden, activation=nn.ReLU6) for size in kernel_sizes
        )
        features = max(1, hidden // reduction)
        self.select = nn.Sequential(
            nn.Conv2d(hidden, features, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(features, hidden * len(kernel_sizes), 1, bias=False),
        )
        self.gate = gate(hidden)
        self.project = conv_norm(hidden, out_channels)
        self.drop_path = DropPath(drop_path)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        z = self.expand(x)
        branches = [branch(z) for branch in self.branches]
        averages = reduce(torch.add, [branch.mean((2, 3), keepdim=True) for branch in branches])
        weights = rearrange(self.select(averages), "b (k c) 1 1 -> k b c 1 1", k=len(branches)).softmax(0)
        chosen = reduce(torch.add, [weights[k] * branch for k, branch in enumerate(branches)])
        y = self.project(self.gate(chosen))
        return x + self.drop_path(y) if self.has_shortcut else y


def pooled_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A 3×3 max pool for the stride and a 1×1 convolution for the channels, where they change: CoAtNet's shortcut.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉)
    """
    return nn.Sequential(
        nn.MaxPool2d(3, stride, padding=1) if stride > 1 else nn.Identity(),
        nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity(),
    )
