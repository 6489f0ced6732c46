"""Split attention: ResNeSt, Zhang et al. 2020, https://arxiv.org/abs/2004.08955."""

from functools import reduce

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, conv_norm
from cifarblocks.blocks.checks import require_int, require_rate
from cifarblocks.blocks.residual import bottleneck_width

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class SplitAttention(nn.Module):
    """A convolution in `radix` splits, and their sum with weights computed from all of them (section 3.1, figure 2).

    Channels are radix-major, as in the authors' code; the paper describes them cardinality-major. The weights come from
    a hidden layer of max(channels · radix / 4, 32) channels, as in that code. timm rounds this to a multiple of 8. With
    `radix=1` the weights are sigmoid gates, not a softmax.

    Formula: y = Σᵢ aᵢ ⊙ uᵢ, u₁ … u_r = ReLU(BN(conv3×3(x))), a = softmax over i of W₂ ReLU(BN(W₁ mean(Σᵢ uᵢ)))

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input and of the output.
        radix: splits of each group.
        groups: cardinality.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w; in training BatchNorm needs at least 2 images.

    Cost: 9·c² + 3·r·c + (1 + r)·c·d + 3·d parameters, 9·c²·h·w + (1 + r)·c·d multiply-adds, with d = max(c·r/4, 32);
        r is the radix, one group.

    Raises:
        ValueError: if a size is below 1, groups · radix does not divide `channels`, or groups does not divide the
            hidden channels; by BatchNorm in training if b is 1.

    >>> SplitAttention(64, radix=2)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, radix: int = 2, groups: int = 1) -> None:
        super().__init__()
        require_int(1, channels=channels, radix=radix, groups=groups)
        hidden_channels = max(channels * radix // 4, 32)
        if channels % (groups * radix):
            raise ValueError(f"channels must be divisible by groups · radix ({groups} · {radix}), got {channels}")
        if hidden_channels % groups:
            raise ValueError(
                f"max(channels · radix / 4, 32) must be divisible by groups ({groups}), got {hidden_channels}"
            )
        self.radix, self.groups = radix, groups
        self.splits = conv_norm(channels, channels * radix, 3, groups=groups * radix, activation=nn.ReLU)
        self.reduce = nn.Conv2d(channels, hidden_channels, 1, groups=groups)
        self.norm = nn.BatchNorm2d(hidden_channels)
        self.activation = nn.ReLU()
        self.expand = nn.Conv2d(hidden_channels, channels * radix, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        splits = self.splits(x).chunk(self.radix, dim=1)  # radix times (b, c, h, w)
        averages = reduce(torch.add, [splits[i].mean((2, 3), keepdim=True) for i in range(self.radix)])
        logits = self.expand(self.activation(self.norm(self.reduce(averages))))
        logits = rearrange(logits, "b (g r c) 1 1 -> r b (g c) 1 1", g=self.groups, r=self.radix)
        weights = logits.softmax(0) if self.radix > 1 else logits.sigmoid()
        return reduce(torch.add, [weights[i] * splits[i] for i in range(self.radix)])


class ResNeStBottleneck(nn.Module):
    """1×1 convolution, split attention, average pool for the stride, 1×1 convolution, and a shortcut (section 3.3).

    As in the authors' code, a 3×3 average pool after the split attention has the stride and counts its padding. The
    shortcut has an average pool that does not count padding, and a 1×1 convolution.

    Formula: y = ReLU(shortcut(x) + BN(conv1×1(pool(split_attention(ReLU(BN(conv1×1(x))))))))

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        in_channels: channels of the input.
        bottleneck_channels: width in the paper's table (64, 128, 256, 512); the output has four times as many.
        stride: stride of the block.
        radix: splits of each group.
        groups: cardinality.
        base_width: width of one group where `bottleneck_channels` is 64.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, in_channels, h, w) → (b, 4 · bottleneck_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w; in training
    BatchNorm needs at least 2 images.

    Cost: 17·p² + 16·p + 3·p·d + 3·d parameters, 17·p²·h·w + 3·p·d multiply-adds, with d = max(p/2, 32); keeping 4·p
        channels and the map, radix 2, one group.

    Raises:
        ValueError: as `Bottleneck` and `SplitAttention`.

    >>> ResNeStBottleneck(64, 32, stride=2)(torch.randn(2, 64, 7, 5)).shape
    torch.Size([2, 128, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        bottleneck_channels: int,
        stride: int = 1,
        radix: int = 2,
        groups: int = 1,
        *,
        base_width: int = 64,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, stride=stride, radix=radix)
        require_rate(drop_path=drop_path)
        width = bottleneck_width(bottleneck_channels, base_width, groups)
        if width % (groups * radix):
            raise ValueError(
                "bottleneck_channels · base_width / 64 · groups must be divisible by "
                f"groups · radix ({groups} · {radix}), got {width}"
            )
        out_channels = 4 * bottleneck_channels
        self.reduce = conv_norm(in_channels, width, activation=nn.ReLU)
        self.attention = SplitAttention(width, radix, groups)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.expand = conv_norm(width, out_channels)
        self.drop_path = DropPath(drop_path)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                conv_norm(in_channels, out_channels),
            )
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.attention(self.reduce(x)))
        return self.activation(self.drop_path(self.expand(y)) + self.shortcut(x))
