"""Multi-scale convolutional attention: SegNeXt, Guo et al. 2022, https://arxiv.org/abs/2209.08575."""

from collections.abc import Sequence

from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, LayerScale
from cifarblocks.blocks.batch_norm import BatchNorm2d
from cifarblocks.blocks.depthwise import DepthwiseConv2d
from cifarblocks.blocks.sizes import mlp_width, require_at_least, require_odd


class MSCA(nn.Module):
    """Scale each value by a sum of depthwise convolutions of several sizes, mixed by a 1×1 (section 3.1, eq. 1-2).

    The attention is used as it is, without a sigmoid, and each k×k convolution is a 1×k strip and a k×1 strip.
    Every convolution has a bias.

    Formula: y = x ⊙ conv1×1(a + Σₖ strip_k×1(strip_1×k(a))), a = depthwise5×5(x), k = 7, 11, 21

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        channels: channels of the input.
        strips: sizes of the strips, odd; on small maps the paper's large ones see mostly padding.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: c² + 111·c parameters, (c² + 103·c)·h·w multiply-adds.

    Raises:
        ValueError: if `channels` or one of `strips` is below 1, or one of `strips` even.

    >>> MSCA(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, strips: Sequence[int] = (7, 11, 21)) -> None:
        super().__init__()
        require_at_least(1, channels=channels)
        for size in strips:
            require_odd(strips=size)
        self.local = DepthwiseConv2d(channels, 5)
        self.strips = nn.ModuleList(
            nn.Sequential(
                DepthwiseConv2d(channels, (1, size)),
                DepthwiseConv2d(channels, (size, 1)),
            )
            for size in strips
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scales = local = self.local(x)
        for strip in self.strips:
            scales = scales + strip(local)
        return self.mix(scales) * x


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
        require_at_least(1, channels=channels)
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
        require_at_least(1, channels=channels)
        self.attention_norm = BatchNorm2d(channels)
        self.attention = MSCAUnit(channels, strips)
        self.attention_scale = LayerScale(channels, 1e-2)
        self.mlp_norm = BatchNorm2d(channels)
        self.mlp = convolutional_mlp(channels, mlp_width(channels, mlp_ratio), dropout)
        self.mlp_scale = LayerScale(channels, 1e-2)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention_scale(self.attention(self.attention_norm(x))))
        return x + self.drop_path(self.mlp_scale(self.mlp(self.mlp_norm(x))))


def convolutional_mlp(channels: int, hidden_channels: int, dropout: float = 0.0) -> nn.Sequential:
    """1×1 convolution, depthwise 3×3, GELU, 1×1 convolution, all with bias: (b, c, h, w) → (b, c, h, w)."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden_channels, 1),
        DepthwiseConv2d(hidden_channels, 3),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Conv2d(hidden_channels, channels, 1),
        nn.Dropout(dropout),
    )
