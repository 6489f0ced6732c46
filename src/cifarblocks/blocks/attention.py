"""Multi-head self-attention: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, as used in Vision Transformers."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.checks import require_int, require_number

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class SelfAttention(nn.Module):
    """Each token gathers the values of all tokens, weighted by softmax(q · k / √head_channels) (section 3.2).

    `qkv` holds queries, keys and values in this order, each head by head, with biases as in ViT's code.

    Formula: y = W₂ softmax(q kᵀ / √head_channels) v, q, k, v = W₁ x

    Origin: written from the paper; equal to timm's Attention (Apache-2.0) and torch's MultiheadAttention (BSD-3).

    Args:
        channels: channels of each token.
        head_channels: channels of a head; 64 in ViT-Ti, S, B and L.
        dropout: dropout rate after the projection.

    Shape: (b, n, c) → (b, n, c), any number of tokens.

    Cost: 4·c² + 4·c parameters, 4·n·c² + 2·n²·c multiply-adds.

    Raises:
        ValueError: if one of them is below 1, or `head_channels` does not divide `channels`.

    >>> SelfAttention(192)(torch.randn(2, 65, 192)).shape
    torch.Size([2, 65, 192])
    """

    def __init__(self, channels: int, head_channels: int = 64, *, dropout: float = 0.0) -> None:
        super().__init__()
        require_int(1, channels=channels, head_channels=head_channels)
        require_number(0, 1, dropout=dropout)
        if channels % head_channels:
            raise ValueError(f"channels must be divisible by head_channels ({head_channels}), got {channels}")
        self.heads = channels // head_channels
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = rearrange(self.qkv(x), "b n (qkv g c) -> qkv b g n c", qkv=3, g=self.heads)
        y = F.scaled_dot_product_attention(query, key, value)
        return self.dropout(self.project(rearrange(y, "b g n c -> b n (g c)")))
