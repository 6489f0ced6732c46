"""Small parts that many blocks share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.checks import (
    Size,
    height_and_width,
    require_int,
    require_number,
    require_odd,
    require_part,
    require_rate,
)

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class DropPath(nn.Module):
    """Drop a residual branch for whole images while training: stochastic depth, https://arxiv.org/abs/1603.09382.

    Kept branches are scaled by 1 / (1 - rate), so the expectation is that of the full branch.

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
        require_rate(rate=rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        one_per_image = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * F.dropout(x.new_ones(one_per_image), self.rate)

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
        require_int(1, channels=channels)
        require_number(0, eps=eps)
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)  # by einops 24 instead of 18 µs for one map of 64×8×8
        return super().forward(pixels).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """Scale each channel by a learned factor, https://arxiv.org/abs/2103.17239 section 2.

    Formula: y = gamma ⊙ x

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input.
        initial_value: first value of each factor `gamma`.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: c parameters, 0 multiply-adds.

    Raises:
        ValueError: if `channels` is below 1.

    >>> LayerScale(64, 1e-2)(torch.ones(2, 64, 8, 5)).mean()
    tensor(0.0100, grad_fn=<MeanBackward0>)
    """

    def __init__(self, channels: int, initial_value: float) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_number(initial_value=initial_value)
        self.initial_value = float(initial_value)
        self.gamma = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set each factor to `initial_value`."""
        nn.init.constant_(self.gamma, self.initial_value)

    def extra_repr(self) -> str:
        return f"{len(self.gamma)}, initial_value={self.initial_value}"

    def forward(self, x: Tensor) -> Tensor:
        return require_map(x) * rearrange(self.gamma, "c -> c 1 1")


@torch.fx.wrap  # a leaf for fx; it returns its input, so that no pass removes it as dead code
def require_map(x: Tensor) -> Tensor:
    """Return x; refuse a tensor that is not a map, whose channels would be another axis.

    Raises:
        ValueError: If x is not of 4 axes, (b, c, h, w).
    """
    if x.ndim != 4:
        raise ValueError(f"x must be a map (b, c, h, w), got {x.ndim} axes, {tuple(x.shape)}")
    return x


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] = nn.Identity,
    *,
    bias: bool = False,
) -> nn.Sequential:
    """Convolution padded by half its kernel, BatchNorm, activation; `bias` is that of the convolution.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉)

    Raises:
        ValueError: if a number is below 1, `kernel_size` even, or `in_channels` or `out_channels` not divisible by
            `groups`.

    >>> conv_norm(16, 32, 3, stride=2, activation=nn.ReLU)(torch.randn(2, 16, 7, 5)).shape
    torch.Size([2, 32, 4, 3])
    """
    require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride, groups=groups)
    require_odd(kernel_size=kernel_size)
    require_part(activation=activation)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(f"{name} must be divisible by groups ({groups}), got {channels}")
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), activation())


def depthwise_conv(
    channels: int, kernel_size: Size, stride: int = 1, *, dilation: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Convolution with one filter a channel, padded by half its kernel: Xception, https://arxiv.org/abs/1610.02357.

    Shape: (b, c, h, w) → (b, c, ⌈h / stride⌉, ⌈w / stride⌉)

    Raises:
        ValueError: if a number is below 1, or `kernel_size`, one number or a height and a width, is even.

    >>> depthwise_conv(64, (1, 7))(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """
    require_int(1, channels=channels, stride=stride, dilation=dilation)
    height, width = height_and_width(kernel_size, "kernel_size")
    for size in (height, width):
        require_odd(kernel_size=size)
    padding = (dilation * (height // 2), dilation * (width // 2))
    return nn.Conv2d(channels, channels, (height, width), stride, padding, dilation, groups=channels, bias=bias)


def mlp(
    features: int, hidden_features: int, dropout: float = 0.0, activation: Callable[[], nn.Module] = nn.GELU
) -> nn.Sequential:
    """Linear, activation, linear, over the last axis: (..., features) → (..., features). GELU is exact."""
    require_number(0, 1, dropout=dropout)
    return nn.Sequential(
        nn.Linear(features, hidden_features),
        activation(),
        nn.Dropout(dropout),
        nn.Linear(hidden_features, features),
        nn.Dropout(dropout),
    )
