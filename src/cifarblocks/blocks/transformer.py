"""Encoder blocks, pre-norm and post-norm: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929."""

from torch import Tensor, nn

from cifarblocks.blocks.attention import SelfAttention
from cifarblocks.blocks.basic import DropPath, mlp
from cifarblocks.blocks.checks import mlp_width, require_int, require_rate


class TransformerBlock(nn.Module):
    """Self-attention, then an MLP with exact GELU, each a pre-norm residual branch (section 3.1, equations 2 and 3).

    Formula: z = x + attention(LN(x)), y = z + W₂ GELU(W₁ LN(z))

    Origin: written from the paper; equal to timm's Block (Apache-2.0) and torchvision's EncoderBlock (BSD-3).

    Args:
        channels: channels of each token.
        head_channels: channels of a head.
        mlp_ratio: width of the MLP in multiples of the channels.
        dropout: dropout rate after the attention, and inside and after the MLP.
        drop_path: probability of dropping the branches of an image in training.

    Shape: (b, n, c) → (b, n, c), any number of tokens.

    Cost: 12·c² + 13·c parameters, 12·n·c² + 2·n²·c multiply-adds.

    Raises:
        ValueError: as `SelfAttention` and `DropPath`, or if the MLP has no width.

    >>> TransformerBlock(192)(torch.randn(2, 65, 192)).shape
    torch.Size([2, 65, 192])
    """

    def __init__(
        self,
        channels: int,
        head_channels: int = 64,
        mlp_ratio: float = 4,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_rate(drop_path=drop_path)
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.attention = SelfAttention(channels, head_channels, dropout=dropout)
        self.mlp_norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = mlp(channels, mlp_width(channels, mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


class PostNormBlock(nn.Module):
    """Self-attention, then an MLP with ReLU, each normalised after its addition: the original encoder block.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, sections 3.1 and 3.3.

    Formula: z = LN(x + attention(x)), y = LN(z + W₂ ReLU(W₁ z))

    Origin: written from the paper; equal to torch's TransformerEncoderLayer (BSD-3), which also has dropout on the
        attention's weights.

    Args:
        channels: channels of each token.
        head_channels: channels of a head.
        mlp_ratio: width of the MLP in multiples of the channels.
        dropout: dropout rate after the attention, and inside and after the MLP.
        drop_path: probability of dropping the branches of an image in training.

    Shape: (b, n, c) → (b, n, c), any number of tokens.

    Cost: 12·c² + 13·c parameters, 12·n·c² + 2·n²·c multiply-adds.

    Raises:
        ValueError: as `SelfAttention` and `DropPath`, or if the MLP has no width.

    >>> PostNormBlock(192)(torch.randn(2, 65, 192)).shape
    torch.Size([2, 65, 192])
    """

    def __init__(
        self,
        channels: int,
        head_channels: int = 64,
        mlp_ratio: float = 4,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_rate(drop_path=drop_path)
        self.attention = SelfAttention(channels, head_channels, dropout=dropout)
        self.attention_norm = nn.LayerNorm(channels)
        self.mlp = mlp(channels, mlp_width(channels, mlp_ratio), dropout, nn.ReLU)
        self.mlp_norm = nn.LayerNorm(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self.drop_path(self.attention(x)))
        return self.mlp_norm(x + self.drop_path(self.mlp(x)))
