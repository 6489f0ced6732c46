"""Convolutional block attention module: CBAM, Woo et al. 2018, https://arxiv.org/abs/1807.06521."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cifarblocks.blocks.checks import require_int, require_part


class CBAM(nn.Module):
    """Scale each channel, then each position, by gates from averages and maxima (section 3, equations 1-3).

    A shared MLP maps the average and the maximum of each channel to a gate (equation 2). Its layers have no bias, as in
    the equation. A 7×7 convolution maps the average and the maximum over the channels to a gate for each position
    (equation 3). A BatchNorm follows it, as in the authors' code. The equation has none: `norm=nn.Identity`.

    Formula: z = x ⊙ σ(W₂ ReLU(W₁ mean(x)) + W₂ ReLU(W₁ max(x))), y = z ⊙ σ(BN(conv7×7(concat(mean_c z, max_c z))))

    Origin: written from the paper; the authors' code is MIT. Equal to timm's CbamModule (Apache-2.0).

    Args:
        channels: channels of the input.
        hidden_channels: hidden width of the MLP. Default: a sixteenth of `channels` as in the paper, at least 1.
        norm: builds the norm after the 7×7 convolution, for its one channel.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w; in training BatchNorm needs more than one pixel in the batch.

    Cost: 2·c·r + 100 parameters, 4·c·r + 98·h·w multiply-adds; r is the hidden width.

    Raises:
        ValueError: if `channels` or `hidden_channels` is below 1.

    >>> CBAM(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int | None = None,
        *,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        require_int(1, channels=channels)
        hidden_channels = max(1, channels // 16) if hidden_channels is None else hidden_channels
        require_int(1, hidden_channels=hidden_channels)
        require_part(1, norm=norm)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, hidden_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, channels, 1, bias=False),
        )
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), norm(1))

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], dim=2)  # (b, c, 2, 1)
        x = x * self.channel(pooled).sum(2, keepdim=True).sigmoid()
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)  # (b, 2, h, w)
        return x * self.spatial(pooled).sigmoid()
