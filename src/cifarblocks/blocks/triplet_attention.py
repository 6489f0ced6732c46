"""Triplet attention: Misra et al. 2021, https://arxiv.org/abs/2010.03045."""

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import conv_norm
from cifarblocks.blocks.checks import require_int, require_odd

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class TripletAttention(nn.Module):
    """Scale each value by the mean of three gates, each from two of the axes channel, row and column.

    Each gate pools the third axis to its maximum and mean (Z-pool), and a convolution with BatchNorm reads both. The
    pooled maps are transposed, not the input as in the paper; the result is the same.

    Formula: y = x ⊙ (g(x over h) + g(x over w) + g(x over c)) / 3, g = σ ∘ BN ∘ conv7×7 ∘ concat(max, mean)

    Origin: written from the paper; the authors' code is MIT.

    Args:
        channels: channels of the input; nothing depends on them.
        kernel_size: kernel size of the three convolutions, odd.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w; in training BatchNorm needs more than one value in each pooled
    map of the batch.

    Cost: 6·k² + 6 parameters, 2·k²·(c·h + c·w + h·w) multiply-adds; k is the size of the kernel.

    Raises:
        ValueError: if `channels` is below 1, or `kernel_size` is even or below 1.

    >>> TripletAttention(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_odd(kernel_size=kernel_size)
        self.channel_column = conv_norm(2, 1, kernel_size)
        self.channel_row = conv_norm(2, 1, kernel_size)
        self.row_column = conv_norm(2, 1, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        over_rows = self.channel_column(rearrange(z_pool(x, 2), "b c z w -> b z c w")).sigmoid()
        over_columns = self.channel_row(rearrange(z_pool(x, 3), "b c h z -> b z h c")).sigmoid()
        over_channels = self.row_column(z_pool(x, 1)).sigmoid()
        gates = rearrange(over_rows, "b z c w -> b c z w") + rearrange(over_columns, "b z h c -> b c h z")
        return x * ((gates + over_channels) / 3)


def z_pool(x: Tensor, dim: int) -> Tensor:
    """Replace an axis by its maximum and mean: the paper's Z-pool.

    >>> z_pool(torch.randn(2, 64, 8, 5), 2).shape
    torch.Size([2, 64, 2, 5])
    """
    return torch.cat([x.amax(dim, keepdim=True), x.mean(dim, keepdim=True)], dim)
