"""Global context: GCNet, Cao et al. 2019, https://arxiv.org/abs/1904.11492."""

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import LayerNorm2d
from cifarblocks.blocks.checks import require_int

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class GlobalContext(nn.Module):
    """Add one vector to all positions: an MLP of the weighted average of the map (the GC block).

    The weights are a softmax over the map of a 1×1 convolution. The authors' code gives this convolution a bias, which
    the softmax cancels, so there is none here. The MLP has a LayerNorm over its hidden channels. With one hidden
    channel its output would not depend on the input.

    Formula: y = x + W₂ ReLU(LN(W₁ Σⱼ aⱼ xⱼ)), a = softmax over the map of conv1×1(x)

    Origin: written from the paper; the authors' code builds on mmdetection (Apache-2.0). Equal to timm's GlobalContext
        (Apache-2.0) with fuse_add=True, fuse_scale=False.

    Args:
        channels: channels of the input.
        hidden_channels: hidden width of the MLP, at least 2. Default: a sixteenth of `channels` as in the paper, at
            least 8.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 2·c·r + 2·c + 3·r parameters, 2·c·h·w + 2·c·r multiply-adds; r is the hidden width.

    Raises:
        ValueError: if `channels` is below 1, or `hidden_channels` below 2.

    >>> GlobalContext(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, hidden_channels: int | None = None) -> None:
        super().__init__()
        require_int(1, channels=channels)
        hidden_channels = max(8, channels // 16) if hidden_channels is None else hidden_channels
        require_int(2, hidden_channels=hidden_channels)
        self.select = nn.Conv2d(channels, 1, 1, bias=False)
        self.reduce = nn.Conv2d(channels, hidden_channels, 1)
        self.norm = LayerNorm2d(hidden_channels, 1e-5)
        self.activation = nn.ReLU()
        self.expand = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = rearrange(self.select(x), "b 1 h w -> b (h w) 1").softmax(1)
        context = rearrange(x, "b c h w -> b c (h w)") @ weights
        context = rearrange(context, "b c 1 -> b c 1 1")
        return x + self.expand(self.activation(self.norm(self.reduce(context))))
