"""MLP-Mixer: Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601."""

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, mlp
from cifarblocks.blocks.checks import require_int, require_rate

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class MixerLayer(nn.Module):
    """An MLP over the tokens, the same for each channel, then one over the channels of each token (section 2, eq. 1).

    GELU is exact. The authors' flax code has the tanh approximation, which differs by up to 5e-4. The paper's networks
    have token_hidden = channels / 2 and channel_hidden = 4 · channels.

    Formula: z = x + [W₂ GELU(W₁ LN(x)ᵀ)]ᵀ, y = z + W₄ GELU(W₃ LN(z))

    Origin: written from the paper; the authors' code is Apache-2.0.

    Args:
        tokens: number of tokens, fixed.
        channels: channels of each token.
        token_hidden: width of the MLP over the tokens.
        channel_hidden: width of the MLP over the channels.
        dropout: dropout rate inside and after both MLPs.
        drop_path: probability of dropping the branches of an image in training.

    Shape: (b, tokens, c) → (b, tokens, c)

    Cost: 2·n·t + 2·c·e + 5·c + n + t + e parameters, 2·n·c·(t + e) multiply-adds; t and e are the hidden widths over
        tokens and channels.

    Raises:
        ValueError: if a size is below 1; in `forward`, if the input has another number of tokens.

    >>> MixerLayer(64, 32, 16, 128)(torch.randn(2, 64, 32)).shape
    torch.Size([2, 64, 32])
    """

    def __init__(
        self,
        tokens: int,
        channels: int,
        token_hidden: int,
        channel_hidden: int,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, tokens=tokens, channels=channels, token_hidden=token_hidden, channel_hidden=channel_hidden)
        require_rate(drop_path=drop_path)
        self.tokens = tokens
        self.token_norm = nn.LayerNorm(channels, eps=1e-6)
        self.token_mlp = mlp(tokens, token_hidden, dropout)
        self.channel_norm = nn.LayerNorm(channels, eps=1e-6)
        self.channel_mlp = mlp(channels, channel_hidden, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = with_tokens(x, self.tokens)
        y = self.token_mlp(rearrange(self.token_norm(x), "b n c -> b c n"))
        x = x + self.drop_path(rearrange(y, "b c n -> b n c"))
        return x + self.drop_path(self.channel_mlp(self.channel_norm(x)))


@torch.fx.wrap  # a leaf for fx; it returns its input, so that no pass removes it as dead code
def with_tokens(x: Tensor, tokens: int) -> Tensor:
    """Return x; refuse another number of tokens.

    Raises:
        ValueError: if x is not (b, tokens, c).
    """
    if x.shape[1] != tokens:
        raise ValueError(f"tokens is {tokens} and fixed in this layer's parameters, got {x.shape[1]}")
    return x
