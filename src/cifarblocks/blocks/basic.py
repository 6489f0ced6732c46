"""The small parts that many blocks share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.batch_norm import BatchNorm2d
from cifarblocks.blocks.depthwise import DepthwiseConv2d
from cifarblocks.blocks.sizes import require_at_least, require_odd


class DropPath(nn.Module):
    """Drop a residual branch for whole images while training: stochastic depth, https://arxiv.org/abs/1603.09382.

    What is kept is scaled by 1 / (1 - rate), so that the expectation is that of the full branch.

    Formula: y = x · keep / (1 - rate), keep of each image 1 with probability 1 - rate, else 0; y = x in eval mode

    Origin: written from the paper; timm's DropPath (Apache-2.0) computes the same.

    Args:
        rate: probability of dropping the branch of one image, at least 0 and below 1.

    Shape: (b, ...) → (b, ...)

    Cost: 0 parameters, 0 multiply-adds.

    Raises:
        ValueError: if `rate` is not in [0, 1).

    >>> DropPath(0.5).eval()(torch.ones(2, 3, 4, 4)).mean()
    tensor(1.)
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x * kept.bernoulli_(1 - self.rate).div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel, https://arxiv.org/abs/1607.06450.

    Formula: y = weight ⊙ (x - mean_c x) / √(var_c x + eps) + bias

    Origin: written from the paper.

    Args:
        channels: channels of the input.
        eps: added to the variance.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 2·c parameters, 0 multiply-adds.

    Raises:
        ValueError: if `channels` is below 1, or `eps` negative.

    >>> LayerNorm2d(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        require_at_least(1, channels=channels)
        require_at_least(0, eps=eps)
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)  # by einops 24 instead of 18 µs for one map of 64×8×8
        pixels = F.layer_norm(pixels, self.normalized_shape, self.weight, self.bias, self.eps)
        return pixels.permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """Scale each channel by a learned factor, https://arxiv.org/abs/2103.17239 section 2.

    Formula: y = gamma ⊙ x

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input.
        initial_value: of each factor `gamma`.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: c parameters, 0 multiply-adds.

    Raises:
        ValueError: if `channels` is below 1.

    >>> LayerScale(64, 1e-2)(torch.ones(2, 64, 8, 5)).mean()
    tensor(0.0100, grad_fn=<MeanBackward0>)
    """

    def __init__(self, channels: int, initial_value: float) -> None:
        super().__init__()
        require_at_least(1, channels=channels)
        self.gamma = nn.Parameter(torch.full((channels,), float(initial_value)))

    def forward(self, x: Tensor) -> Tensor:
        return x * rearrange(self.gamma, "c -> c 1 1")


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] = nn.Identity,
) -> nn.Sequential:
    """Convolution without bias and padded by half its kernel, BatchNorm, activation.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉)

    Raises:
        ValueError: if a number is below 1, `kernel_size` even, or `in_channels` or `out_channels` not divisible by
            `groups`.

    >>> conv_norm(16, 32, 3, stride=2, activation=nn.ReLU)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """
    require_at_least(1, in_channels=in_channels, out_channels=out_channels, stride=stride, groups=groups)
    require_odd(kernel_size=kernel_size)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(f"{name} must be divisible by groups ({groups}), got {channels}")
    if groups == in_channels == out_channels:
        conv: nn.Conv2d = DepthwiseConv2d(in_channels, kernel_size, stride, bias=False)
    else:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, BatchNorm2d(out_channels), in_place(activation()))


def in_place(activation: nn.Module) -> nn.Module:
    """The activation made to overwrite its input, if it can: a fifth off some blocks' time.

    For what comes fresh out of BatchNorm or an addition, whose own gradients do not need it; where the activation's
    own does, as SiLU's, torch keeps a copy in training.
    """
    if isinstance(activation, nn.ReLU | nn.ReLU6 | nn.LeakyReLU | nn.SiLU):
        activation.inplace = True
    return activation


def mlp(
    features: int, hidden_features: int, dropout: float = 0.0, activation: Callable[[], nn.Module] = nn.GELU
) -> nn.Sequential:
    """Linear, activation, linear, over the last axis: (..., features) → (..., features). GELU is exact."""
    return nn.Sequential(
        nn.Linear(features, hidden_features),
        activation(),
        nn.Dropout(dropout),
        nn.Linear(hidden_features, features),
        nn.Dropout(dropout),
    )
