"""Parameter-free attention: SimAM, Yang et al. 2021, https://proceedings.mlr.press/v139/yang21o.html."""

from torch import Tensor, nn

from cifarblocks.blocks.checks import require_int, require_number


class SimAM(nn.Module):
    """Scale each value by its distance from the mean of its channel, without parameters (section 3, equations 5-6).

    The gate is the sigmoid of 1 / e, where e is the least energy of a value (equation 5). The variance divides by h·w,
    as in the paper. The authors' code divides by h·w - 1, which fails for a single pixel.

    Formula: y = x ⊙ σ((x - μ)² / (4·(σ² + λ)) + 1/2), μ and σ² the mean and variance of each channel's map

    Origin: written from the paper; the authors' code has no licence, and nothing of it is taken.

    Args:
        channels: channels of the input; nothing depends on them.
        regularisation: λ of equation 5; the authors' networks have 1e-4 on CIFAR and 0.1 on ImageNet.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 0 parameters, 0 multiply-adds.

    Raises:
        ValueError: if `channels` is below 1, or `regularisation` negative.

    >>> SimAM(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, regularisation: float = 1e-4) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_number(0, regularisation=regularisation)
        self.channels = channels
        self.regularisation = regularisation

    def extra_repr(self) -> str:
        return f"{self.channels}, regularisation={self.regularisation}"

    def forward(self, x: Tensor) -> Tensor:
        squares = (x - x.mean((2, 3), keepdim=True)).square()
        variance = squares.mean((2, 3), keepdim=True)
        importance = squares / (4 * (variance + self.regularisation)) + 0.5
        return x * importance.sigmoid()
