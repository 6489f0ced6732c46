"""Multi-scale convolutional attention: SegNeXt, Guo et al. 2022, https://arxiv.org/abs/2209.08575."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Proxy

from cifarblocks.blocks.basic import DropPath, LayerScale, depthwise_conv
from cifarblocks.blocks.checks import mlp_width, require_int, require_number, require_odds, require_rate


class MSCA(nn.Module):
    """Scale each value by a sum of depthwise convolutions of several sizes, mixed by a 1×1 (section 3.1, eq. 1-2).

    The attention has no sigmoid. Each k×k convolution is a 1×k strip and a k×1 strip.
    Every convolution has a bias.

    Formula: y = x ⊙ conv1×1(a + Σₖ strip_k×1(strip_1×k(a))), a = depthwise5×5(x), k = 7, 11, 21

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input.
        strips: sizes of the strips, odd; on small maps the paper's large ones read mostly padding.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: c² + 111·c parameters, (c² + 103·c)·h·w multiply-adds.

    Raises:
        ValueError: if `channels` or one of `strips` is below 1, or one of `strips` even.

    >>> MSCA(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, strips: Sequence[int] = (7, 11, 21)) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_odds(strips=strips)
        self.local = depthwise_conv(channels, 5)
        self.strips = nn.ModuleList(
            nn.Sequential(depthwise_conv(channels, (1, size)), depthwise_conv(channels, (size, 1))) for size in strips
        )
        self.hangs = [channels < 24 and size >= 15 for size in strips]  # in half precision, see `in_float32`
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = local = self.local(x)
        for strip, hangs in zip(self.strips, self.hangs, strict=True):
            scales = scales + (in_float32(strip, local) if hangs else strip(local))
        return self.mix(scales) * x


def in_float32(strip: nn.Module, x: Tensor) -> Tensor:
    """Call a narrow strip in float32 on a CPU: torch 2.14 never returns from it in half precision with AMX."""
    if isinstance(x, Proxy) or torch._C._get_tracing_state() is not None:
        return strip(refuse_half(x))  # a graph calls the layers themselves
    if not is_half(x):
        return strip(x)
    with torch.autocast("cpu", enabled=False):
        parameters = {name: parameter.float() for name, parameter in strip.named_parameters()}
        return functional_call(strip, parameters, x.float()).to(x.dtype)


def is_half(x: Tensor) -> bool:
    """Return True if a convolution of x is computed in bfloat16 or float16 on a CPU."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype == torch.float32
    return x.device.type == "cpu" and (autocast or x.dtype in (torch.bfloat16, torch.float16))


@torch.fx.wrap  # a leaf for fx; it returns its input, so that no pass removes it as dead code
def refuse_half(x: Tensor) -> Tensor:
    """Return x; refuse half precision if the next strip would never return.

    Raises:
        RuntimeError: If a convolution of x is computed in half precision on a processor with AMX.
    """
    if is_half(x) and getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)():
        raise RuntimeError("x must be float32 here: torch hangs in strips of fewer than 24 channels in half precision")
    return x


class MSCAUnit(nn.Module):
    """1×1 convolution, GELU, MSCA, 1×1 convolution, and a shortcut around them (figure 2a).

    Formula: y = x + conv1×1(MSCA(GELU(conv1×1(x))))

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input.
        strips: as in `MSCA`.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 3·c² + 113·c parameters, (3·c² + 103·c)·h·w multiply-adds.

    Raises:
        ValueError: as `MSCA`.

    >>> MSCAUnit(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, strips: Sequence[int] = (7, 11, 21)) -> None:
        super().__init__()
        require_int(1, channels=channels)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.GELU(), MSCA(channels, strips), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class MSCABlock(nn.Module):
    """An MSCA unit and a convolutional MLP, each a BatchNorm, a scaled branch and a shortcut (figure 2a).

    The unit has a shortcut of its own, so the normalised input passes twice. The first value of the scales, 0.01, is
    that of the authors' code.

    Formula: z = x + λ₁ ⊙ unit(BN(x)), y = z + λ₂ ⊙ mlp(BN(z)), mlp = conv1×1 ∘ GELU ∘ depthwise3×3 ∘ conv1×1

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input.
        mlp_ratio: width of the MLP for each channel; the paper's networks take 8, 8, 4, 4.
        strips: as in `MSCA`.
        dropout: dropout rate inside and after the MLP.
        drop_path: probability of dropping the branches of an image in training.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: (3 + 2·r)·c² + (120 + 11·r)·c parameters, ((3 + 2·r)·c² + (103 + 9·r)·c)·h·w multiply-adds; r is the MLP's
        ratio.

    Raises:
        ValueError: as `MSCA` and `DropPath`, or if the MLP has no width.

    >>> MSCABlock(64, 4)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        *,
        strips: Sequence[int] = (7, 11, 21),
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_rate(drop_path=drop_path)
        self.attention_norm = nn.BatchNorm2d(channels)
        self.attention = MSCAUnit(channels, strips)
        self.attention_scale = LayerScale(channels, 1e-2)
        self.mlp_norm = nn.BatchNorm2d(channels)
        self.mlp = convolutional_mlp(channels, mlp_width(channels, mlp_ratio), dropout)
        self.mlp_scale = LayerScale(channels, 1e-2)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention_scale(self.attention(self.attention_norm(x))))
        return x + self.drop_path(self.mlp_scale(self.mlp(self.mlp_norm(x))))


def convolutional_mlp(channels: int, hidden_channels: int, dropout: float = 0.0) -> nn.Sequential:
    """1×1 convolution, depthwise 3×3, GELU, 1×1 convolution, all with bias: (b, c, h, w) → (b, c, h, w)."""
    require_number(0, 1, dropout=dropout)
    return nn.Sequential(
        nn.Conv2d(channels, hidden_channels, 1),
        depthwise_conv(hidden_channels, 3),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Conv2d(hidden_channels, channels, 1),
        nn.Dropout(dropout),
    )
