"""Large selective kernel attention: LSKNet, Li et al. 2023, https://arxiv.org/abs/2303.09030."""

import torch
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, LayerScale, depthwise_conv
from cifarblocks.blocks.checks import mlp_width, require_int, require_rate
from cifarblocks.blocks.msca import convolutional_mlp


class LSKAttention(nn.Module):
    """Scale each value by an attention that weights two receptive fields at each position (sections 3.2-3.3).

    The paper allows any number of kernels; its networks and this block have two (equations 3-4). They are a depthwise
    5×5 and, after it, a depthwise 7×7 of dilation 3; together they see 23×23. The two maps of weights come from the
    mean and the maximum over channels (equations 5-6). Each has its own sigmoid, not a softmax (equation 7). The result
    scales the input without a further sigmoid (equation 8). Every convolution has a bias. LSKA, large separable kernel
    attention, is another block.

    Formula: u₁ = depthwise5×5(x), u₂ = depthwise7×7(u₁), vᵢ = conv1×1(uᵢ), v = concat(v₁, v₂),
        g = σ(conv7×7(concat(mean_c v, max_c v))), y = x ⊙ conv1×1(g₁ ⊙ v₁ + g₂ ⊙ v₂)

    Origin: written from the paper alone; the authors' code is CC BY-NC 4.0 and was not consulted.

    Args:
        channels: channels of the input, at least 2; each receptive field is reduced to half of them, rounded down.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 3·c²/2 + 78·c + 198 parameters, (3·c²/2 + 74·c + 196)·h·w multiply-adds, c even.

    Raises:
        ValueError: if `channels` is below 2.

    >>> LSKAttention(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_int(2, channels=channels)
        half = channels // 2
        self.small = depthwise_conv(channels, 5)
        self.large = depthwise_conv(channels, 7, dilation=3)
        self.reduce_small = nn.Conv2d(channels, half, 1)
        self.reduce_large = nn.Conv2d(channels, half, 1)
        self.select = nn.Conv2d(2, 2, 7, padding=3)
        self.expand = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = self.small(x)
        large = self.reduce_large(self.large(small))
        small = self.reduce_small(small)
        both = torch.cat([small, large], dim=1)
        pooled = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], dim=1)
        for_small, for_large = self.select(pooled).sigmoid().chunk(2, dim=1)
        return x * self.expand(small * for_small + large * for_large)


class LSKUnit(nn.Module):
    """1×1 convolution, GELU, LSK attention, 1×1 convolution, and a shortcut around them (section 3.1, figure 3).

    Formula: y = x + conv1×1(LSK(GELU(conv1×1(x))))

    Origin: written from the paper alone; the authors' code is CC BY-NC 4.0 and was not consulted.

    Args:
        channels: channels of the input.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 7·c²/2 + 80·c + 198 parameters, (7·c²/2 + 74·c + 196)·h·w multiply-adds, c even.

    Raises:
        ValueError: as `LSKAttention`.

    >>> LSKUnit(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_int(2, channels=channels)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.GELU(), LSKAttention(channels), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class LSKBlock(nn.Module):
    """An LSK unit and a convolutional MLP, each a BatchNorm, a scaled branch and a shortcut (section 3.1, figure 3).

    Formula: z = x + λ₁ ⊙ unit(BN(x)), y = z + λ₂ ⊙ mlp(BN(z)), mlp = conv1×1 ∘ GELU ∘ depthwise3×3 ∘ conv1×1

    Origin: written from the paper alone; the authors' code is CC BY-NC 4.0 and was not consulted.

    Args:
        channels: channels of the input.
        mlp_ratio: width of the MLP for each channel; the paper's networks take 8, 8, 4, 4.
        dropout: dropout rate inside and after the MLP.
        drop_path: probability of dropping the branches of an image in training.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: (7/2 + 2·r)·c² + (87 + 11·r)·c + 198 parameters, ((7/2 + 2·r)·c² + (74 + 9·r)·c + 196)·h·w multiply-adds, c
        even; r is the MLP's ratio.

    Raises:
        ValueError: as `LSKAttention` and `DropPath`, or if the MLP has no width.

    >>> LSKBlock(64, 8)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, mlp_ratio: float, *, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        require_int(2, channels=channels)
        require_rate(drop_path=drop_path)
        self.attention_norm = nn.BatchNorm2d(channels)
        self.attention = LSKUnit(channels)
        self.attention_scale = LayerScale(channels, 1e-2)
        self.mlp_norm = nn.BatchNorm2d(channels)
        self.mlp = convolutional_mlp(channels, mlp_width(channels, mlp_ratio), dropout)
        self.mlp_scale = LayerScale(channels, 1e-2)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention_scale(self.attention(self.attention_norm(x))))
        return x + self.drop_path(self.mlp_scale(self.mlp(self.mlp_norm(x))))
