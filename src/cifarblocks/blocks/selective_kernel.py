"""Selective kernel convolution: SKNet, Li et al. 2019, https://arxiv.org/abs/1903.06586."""

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.checks import require_int

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class SelectiveKernel(nn.Module):
    """Choose, channel by channel, between a 3×3 and a dilated 3×3 convolution (section 3.1, equations 1-6).

    The dilated one sees 5×5. The choice is a softmax over the two, computed from the averages of their sum. In the
    paper the block replaces the 3×3 convolution of a bottleneck, with 32 groups. As `attention="selective_kernel"` it
    follows the convolutions of a block, and doubles the parameters of `resnet_20`.

    Formula: y = a₁ ⊙ u₁ + a₂ ⊙ u₂, u₁ = ReLU(BN(conv3×3(x))), u₂ the same at dilation 2,
        a = softmax over both of W₂ ReLU(BN(W₁ mean(u₁ + u₂)))

    Origin: written from the paper; the authors' configurations have no licence. Equal to timm's SelectiveKernel
        (Apache-2.0) with split_input=False.

    Args:
        channels: channels of the input and of the output.
        groups: groups of both convolutions.
        hidden_channels: width of the layer between averages and weights. Default: a sixteenth of `channels`, at least
            32 (equation 4).

    Shape: (b, c, h, w) → (b, c, h, w), any h and w; in training BatchNorm needs at least 2 images.

    Cost: 18·c² + 4·c + 3·c·d + 2·d parameters, 18·c²·h·w + 3·c·d multiply-adds, with d = max(c/16, 32); one group.

    Raises:
        ValueError: if a size is below 1, or `groups` does not divide `channels`; by BatchNorm in training if b is 1.

    >>> SelectiveKernel(64, groups=32)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, groups: int = 1, hidden_channels: int | None = None) -> None:
        super().__init__()
        require_int(1, channels=channels, groups=groups)
        hidden_channels = max(channels // 16, 32) if hidden_channels is None else hidden_channels
        require_int(1, hidden_channels=hidden_channels)
        if channels % groups:
            raise ValueError(f"channels must be divisible by groups ({groups}), got {channels}")
        self.small = conv_norm(channels, channels, 3, groups=groups, activation=nn.ReLU)
        self.large = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.reduce = conv_norm(channels, hidden_channels, activation=nn.ReLU)
        self.expand = nn.Conv2d(hidden_channels, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        small, large = self.small(x), self.large(x)
        averages = (small + large).mean((2, 3), keepdim=True)
        logits = rearrange(self.expand(self.reduce(averages)), "b (k c) 1 1 -> k b c 1 1", k=2)
        weights = logits.softmax(0)
        return small * weights[0] + large * weights[1]
