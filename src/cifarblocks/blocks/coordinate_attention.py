"""Coordinate attention: Hou et al. 2021, https://arxiv.org/abs/2103.02907."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.checks import require_int, require_part

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class CoordinateAttention(nn.Module):
    """Scale each value by a gate of its row and one of its column (section 3.2, equations 4-9).

    The averages of rows and of columns share one 1×1 convolution and its BatchNorm. The paper leaves the activation
    open; the authors' code has a hard swish. Every convolution has a bias.

    Formula: f = hardswish(BN(conv1×1(concat(mean_w x, mean_h x)))), y = x ⊙ σ(conv1×1(f_h)) ⊙ σ(conv1×1(f_w))

    Origin: written from the paper; the authors' code is MIT. Equal to timm's CoordAttn (Apache-2.0) with bias=True.

    Args:
        channels: channels of the input.
        hidden_channels: channels between the convolutions. Default: a 32nd of `channels`, at least 8, as in the
            authors' code.
        activation: builds the activation between the convolutions.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 3·c·r + 2·c + 3·r parameters, 2·c·r·(h + w) multiply-adds; r is the hidden width.

    Raises:
        ValueError: if `channels` or `hidden_channels` is below 1.

    >>> CoordinateAttention(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None = None,
        activation: Callable[[], nn.Module] = nn.Hardswish,
    ) -> None:
        super().__init__()
        require_int(1, channels=channels)
        hidden_channels = max(8, channels // 32) if hidden_channels is None else hidden_channels
        require_int(1, hidden_channels=hidden_channels)
        require_part(activation=activation)
        self.reduce = conv_norm(channels, hidden_channels, activation=activation, bias=True)
        self.expand_rows = nn.Conv2d(hidden_channels, channels, 1)
        self.expand_columns = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        columns = rearrange(columns, "b c z w -> b c w z")
        both = self.reduce(torch.cat([rows, columns], dim=2))  # (b, hidden_channels, h + w, 1)
        rows, columns = both.split([x.shape[2], x.shape[3]], dim=2)
        columns = rearrange(columns, "b c w z -> b c z w")
        return x * self.expand_rows(rows).sigmoid() * self.expand_columns(columns).sigmoid()
