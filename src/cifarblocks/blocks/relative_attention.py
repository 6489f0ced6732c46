"""Attention with learned relative positions: CoAtNet, Dai et al. 2021, https://arxiv.org/abs/2106.04803."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, LayerNorm2d
from cifarblocks.blocks.checks import Size, height_and_width, mlp_width, require_int, require_rate
from cifarblocks.blocks.mbconv import pooled_shortcut

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops


class RelativeAttention(nn.Module):
    """Self-attention over a map, with a learned bias added to the logits for each relative position (equation 3).

    The bias of head g for query (y, x) and key (v, u) is relative_bias[g, y - v + h - 1, x - u + w - 1]. On a map of
    another size than `size` the table is resized bilinearly around its centre. The paper does not say whether corners
    are aligned; here they are not. `qkv` holds queries, keys and values in this order, each head by head. timm has
    [query, key, value] of each head.

    Formula: y = conv1×1(softmax(q · k / √head_channels + bias(offset of q from k)) · v), q, k, v = conv1×1(x)

    Origin: written from the paper; equal to timm's Attention2d (Apache-2.0).

    Args:
        channels: channels of the input.
        size: height and width of the map that the table is made for, or one number for both.
        head_channels: channels of a head.
        out_channels: channels of the output; by default those of the input.

    Shape: (b, channels, h, w) → (b, out_channels, h, w), any h and w.

    Cost: 4·c² + 4·c + (2·m - 1)·(2·n - 1)·c/32 parameters, 4·c²·h·w + 2·c·(h·w)² multiply-adds; the table is made for
        a map of m·n.

    Raises:
        ValueError: if a size is below 1, or `head_channels` does not divide the output's channels.

    >>> RelativeAttention(64, size=(8, 5))(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, size: Size, head_channels: int = 32, *, out_channels: int | None = None) -> None:
        super().__init__()
        name = "channels" if out_channels is None else "out_channels"
        out_channels = channels if out_channels is None else out_channels
        require_int(1, channels=channels, out_channels=out_channels, head_channels=head_channels)
        if out_channels % head_channels:
            raise ValueError(f"{name} must be divisible by head_channels ({head_channels}), got {out_channels}")
        height, width = height_and_width(size)
        self.heads = out_channels // head_channels
        self.qkv = nn.Conv2d(channels, 3 * out_channels, 1)
        self.relative_bias = nn.Parameter(torch.empty(self.heads, 2 * height - 1, 2 * width - 1))
        self.project = nn.Conv2d(out_channels, out_channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the biases from N(0, 0.02²), cut off at ±2."""
        nn.init.trunc_normal_(self.relative_bias, std=0.02)

    def extra_repr(self) -> str:
        height, width = ((length + 1) // 2 for length in self.relative_bias.shape[1:])
        return f"heads={self.heads}, size=({height}, {width})"

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        heads = rearrange(self.qkv(x), "b (qkv g c) h w -> qkv b g (h w) c", qkv=3, g=self.heads).contiguous()
        query, key, value = heads  # torch fuses only contiguous tensors with a bias of 4 axes: 3 times faster
        bias = rearrange(pairwise_bias(self.relative_bias, h, w).to(query.dtype), "g q k -> 1 g q k")
        if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:  # under torch.func the fused kernel refuses a bias that needs a gradient
            y = (query @ key.mT * query.shape[-1] ** -0.5 + bias).softmax(-1) @ value
        return self.project(rearrange(y, "b g (h w) c -> b (g c) h w", h=h))


class RelativeTransformerBlock(nn.Module):
    """Relative attention and an MLP of 1×1 convolutions, each a pre-norm residual branch (appendix A.1).

    With a stride, a max pool follows the first norm and is on the shortcut. The shortcut is projected where the
    channels change (equation 4).

    Formula: z = project(pool(x)) + attention(pool(LN(x))), y = z + mlp(LN(z)), mlp = conv1×1 ∘ GELU ∘ conv1×1

    Origin: written from the paper; equal to timm's TransformerBlock2d (Apache-2.0) with pool_type="max".

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        size: the map at the block's input, before its pooling: height and width, or one number for both.
        stride: stride of the pool.
        head_channels: channels of a head.
        mlp_ratio: width of the MLP in multiples of `out_channels`.
        drop_path: probability of dropping the branches of an image in training.

    Shape: (b, in_channels, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉), any h and w.

    Cost: 12·c² + 13·c + (2·m - 1)·(2·n - 1)·c/32 parameters, 12·c²·h·w + 2·c·(h·w)² multiply-adds, keeping c channels
        and the map; the table is made for a map of m·n.

    Raises:
        ValueError: as `RelativeAttention` and `DropPath`, or if `stride` is below 1 or the MLP has no width.

    >>> RelativeTransformerBlock(64, 96, size=(8, 5), stride=2)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 96, 4, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: Size,
        stride: int = 1,
        *,
        head_channels: int = 32,
        mlp_ratio: float = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_int(1, in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_rate(drop_path=drop_path)
        height, width = height_and_width(size)
        hidden = mlp_width(out_channels, mlp_ratio)
        pooled = (-(-height // stride), -(-width // stride))
        self.attention_norm = LayerNorm2d(in_channels)
        self.pool = nn.MaxPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.attention = RelativeAttention(in_channels, pooled, head_channels, out_channels=out_channels)
        self.shortcut = pooled_shortcut(in_channels, out_channels, stride)
        self.mlp_norm = LayerNorm2d(out_channels)
        self.mlp = nn.Sequential(nn.Conv2d(out_channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, out_channels, 1))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.pool(self.attention_norm(x)))
        x = self.shortcut(x) + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


@torch.fx.wrap  # a leaf for fx, because it depends on the size of the map
def pairwise_bias(table: Tensor, h: int, w: int) -> Tensor:
    """Return the bias of each pair of positions on a map of h·w: (g, 2·h' - 1, 2·w' - 1) → (g, h·w queries, h·w keys).

    >>> pairwise_bias(torch.arange(9.0).view(1, 3, 3), 2, 2)[0]
    tensor([[4., 3., 1., 0.],
            [5., 4., 2., 1.],
            [7., 6., 4., 3.],
            [8., 7., 5., 4.]])
    """
    size = (2 * h - 1, 2 * w - 1)
    if table.shape[1:] != size:
        table = F.interpolate(table.unsqueeze(0), size=size, mode="bilinear", align_corners=False)[0]
    # The window of the query at (y, x) has the key at (v, u) in its row h - 1 - v and its column w - 1 - u.
    windows = table.unfold(1, h, 1).unfold(2, w, 1).flip(3, 4)
    return rearrange(windows, "g y x v u -> g (y x) (v u)")
