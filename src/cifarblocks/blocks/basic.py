"""The small parts that many blocks share."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop a residual branch for whole images while training: stochastic depth, https://arxiv.org/abs/1603.09382.

    What is kept is scaled by 1 / (1 - rate), so that the expectation is that of the full branch.

    Args:
        rate: probability of dropping the branch of one image, at least 0 and below 1.

    Shape: (b, ...) → (b, ...)

    Raises:
        ValueError: if `rate` is not in [0, 1).

    >>> DropPath(0.5).eval()(torch.ones(2, 3, 4, 4)).mean()
    tensor(1.)
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate must be at least 0 and below 1, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.rate).div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
