"""ConvNeXt, Liu et al. 2022, https://arxiv.org/abs/2201.03545, and V2, https://arxiv.org/abs/2301.00808."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, LayerScale, depthwise_conv, require_map
from cifarblocks.blocks.checks import require_int, require_number, require_part, require_rate

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops
torch.fx.wrap("require_map")


class GRN(nn.Module):
    """Global response normalisation: channels compete by their norm over the map (V2, algorithm 1).

    Formula: y = x + shift + scale ⊙ x ⊙ (‖x‖ / (mean_c ‖x‖ + eps)), ‖x‖ over the map of each channel

    Origin: written from the paper; the authors' code is CC BY-NC 4.0.

    Args:
        channels: channels of the input.
        eps: added to the mean norm.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 2·c parameters, 0 multiply-adds.

    Raises:
        ValueError: if `channels` is below 1, or `eps` negative.

    >>> GRN(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_number(0, eps=eps)
        self.eps = eps
        self.scale = nn.Parameter(torch.empty(channels))
        self.shift = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set both to 0, so that y = x."""
        nn.init.zeros_(self.scale)
        nn.init.zeros_(self.shift)

    def extra_repr(self) -> str:
        return f"{len(self.scale)}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        x = require_map(x)
        norms = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        response = norms / (norms.mean(1, keepdim=True) + self.eps)
        factor = 1 + rearrange(self.scale, "c -> c 1 1") * response
        return torch.addcmul(rearrange(self.shift, "c -> c 1 1"), x, factor)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7×7, LayerNorm, and an inverted bottleneck for each pixel, as a residual branch (section 2.6).

    Version 2 is `ConvNeXtBlock(channels, layer_scale=None, response_norm=GRN)`.

    Formula: y = x + γ ⊙ (W₂ GELU(W₁ LN(depthwise7×7(x))))

    Origin: written from the papers; the authors' code is MIT (V1) and CC BY-NC 4.0 (V2, not consulted).

    Args:
        channels: channels of the input and of the output.
        layer_scale: first value of the branch's scale; None for no scale.
        response_norm: builds the module after the activation from 4 · channels; by default there is none.
        drop_path: probability of dropping the branch of an image in training.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 8·c² + 58·c parameters, (8·c² + 49·c)·h·w multiply-adds.

    Raises:
        ValueError: if `channels` is below 1, or `drop_path` not in [0, 1).

    >>> ConvNeXtBlock(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        *,
        layer_scale: float | None = 1e-6,
        response_norm: Callable[[int], nn.Module] = nn.Identity,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, channels=channels)
        require_rate(drop_path=drop_path)
        require_part(1, response_norm=response_norm)
        if layer_scale is not None:
            require_number(layer_scale=layer_scale)
        self.depthwise = depthwise_conv(channels, 7)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.activation = nn.GELU()
        self.response_norm = response_norm(4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.scale = nn.Identity() if layer_scale is None else LayerScale(channels, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = rearrange(self.depthwise(x), "b c h w -> b h w c")
        y = rearrange(self.activation(self.expand(self.norm(y))), "b h w c -> b c h w")
        y = rearrange(self.response_norm(y), "b c h w -> b h w c")
        y = rearrange(self.project(y), "b h w c -> b c h w")
        return x + self.drop_path(self.scale(y))
