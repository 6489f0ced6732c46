"""Recursive gated convolution: HorNet, Rao et al. 2022, https://arxiv.org/abs/2207.14284."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cifarblocks.blocks.basic import DropPath, LayerNorm2d, LayerScale, depthwise_conv
from cifarblocks.blocks.checks import (
    Size,
    height_and_width,
    require_int,
    require_number,
    require_part,
    require_rate,
)

torch.fx.wrap("rearrange")  # a leaf for fx, which cannot look into einops

Filter = Callable[[int], nn.Module]  # channels → a module that keeps (b, c, h, w)


def depthwise_7x7(channels: int) -> nn.Conv2d:
    """Build the filter of most stages: a depthwise 7×7 convolution with bias, (b, c, h, w) → (b, c, h, w)."""
    return depthwise_conv(channels, 7)


class GnConv(nn.Module):
    """Gate and project repeatedly: interactions of `order` between neighbouring positions (section 3.1, eq. 3.2-3.5).

    Step k works on channels / 2^(order - 1 - k) channels. All gates come from one filter of all channels, scaled once;
    the paper scales at each step, which is the same. No activation anywhere.

    Formula: p₀, q = conv1×1(x), g = scale · filter(q), p₁ = p₀ ⊙ g₀, pₖ₊₁ = conv1×1(pₖ) ⊙ gₖ, y = conv1×1(p_order)

    Origin: written from the paper; the authors' code is MIT.

    Args:
        channels: channels of the input.
        order: number of gates, at least 1.
        scale: factor of the filter's output, bias included; 1/3 in every network of the paper.
        filter: builds the filter of the gates, `depthwise_7x7` or `GlobalLocalFilter`.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: (3 + 2·(1 - u²)/3)·c² + (105 - 52·u)·c parameters, ((3 + 2·(1 - u²)/3)·c² + 49·(2 - u)·c)·h·w multiply-adds,
        with u = 2^(1 - n); n is the order.

    Raises:
        ValueError: if `channels` or `order` is below 1, `channels` not divisible by 2^(order - 1), or the filter
            refuses the sum of the gates' channels.

    >>> GnConv(64, order=3)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, order: int, scale: float = 1 / 3, *, filter: Filter = depthwise_7x7) -> None:
        super().__init__()
        require_int(1, channels=channels, order=order)
        require_number(scale=scale)
        require_part(1, filter=filter)
        if channels % 2 ** (order - 1):
            raise ValueError(f"channels must be divisible by 2^(order - 1) = {2 ** (order - 1)}, got {channels}")
        self.widths = [channels // 2 ** (order - 1 - k) for k in range(order)]
        self.scale = scale
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.filter = filter(sum(self.widths))
        self.steps = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1) for narrow, wide in zip(self.widths[:-1], self.widths[1:], strict=True)
        )
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, gates = self.expand(x).split([self.widths[0], sum(self.widths)], dim=1)
        gates = (self.filter(gates) * self.scale).split(self.widths, dim=1)
        y = y * gates[0]
        for k, step in enumerate(self.steps):
            y = step(y) * gates[k + 1]
        return self.project(y)


class GlobalLocalFilter(nn.Module):
    """Half of the channels through a depthwise 3×3 convolution, half through a filter of the map's size (section 3.3).

    The large filter multiplies the spectrum of the map by learned complex weights. On a map of another size than `size`
    the weights are resized bilinearly, corners aligned, as in the authors' code. The transform is computed in float32
    for lower precisions, and in float64 for float64. The output interleaves the halves.

    Formula: a, b = halves of LN(x), y = LN(interleave(depthwise3×3(a), irfft2(spectrum ⊙ rfft2(b))))

    Origin: written from the paper; the authors' code is MIT.

    Args:
        channels: channels of the input, even.
        size: height and width of the map that the weights are made for, or one number for both.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 17·c/2 + c·m·(n/2 + 1) parameters, 9·c/2·h·w multiply-adds, the transforms not counted; the spectrum is made
        for a map of m·n, n even.

    Raises:
        ValueError: if `channels` is odd or below 1, or `size` below 1.

    >>> GlobalLocalFilter(64, size=(8, 5))(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        require_int(1, channels=channels)
        if channels % 2:
            raise ValueError(f"channels must be even to be halved, got {channels}")
        height, width = height_and_width(size)
        self.norm_in = LayerNorm2d(channels)
        self.local = depthwise_conv(channels // 2, 3, bias=False)
        self.spectrum = nn.Parameter(torch.empty(2, channels // 2, height, width // 2 + 1))  # real, imaginary
        self.norm_out = LayerNorm2d(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the spectrum from N(0, 0.02²)."""
        with torch.no_grad():
            nn.init.normal_(self.spectrum).mul_(0.02)

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.norm_in(x).chunk(2, dim=1)
        halves = [half.permute(0, 2, 3, 1) for half in (self.local(near), filtered(far, self.spectrum))]
        both = torch.stack(halves, dim=4).flatten(3)  # (b, h, w, c), as the norm reads it: a fifth less time
        return self.norm_out(both.permute(0, 3, 1, 2))


@torch.fx.wrap  # a leaf for fx, because it depends on the dtype and the size of the map
def filtered(x: Tensor, spectrum: Tensor) -> Tensor:
    """Multiply the Fourier transform of a map by a spectrum, resized to it: (b, c, h, w) → (b, c, h, w)."""
    if x.shape[0] == 0:  # torch's transform refuses an empty batch
        return x * spectrum.sum()
    h, w = x.shape[-2:]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    weights = spectrum.to(dtype)
    if weights.shape[-2:] != (h, w // 2 + 1):
        weights = F.interpolate(weights, size=(h, w // 2 + 1), mode="bilinear", align_corners=True)
    product = torch.fft.rfft2(x.to(dtype), norm="ortho") * torch.complex(weights[0], weights[1])
    return torch.fft.irfft2(product, s=(h, w), norm="ortho").to(x.dtype)


class HorNetBlock(nn.Module):
    """gnConv and an MLP for each pixel, each a pre-norm, scaled residual branch (section 3.3, figure 2).

    Formula: z = x + γ₁ ⊙ gnConv(LN(x)), y = z + γ₂ ⊙ (W₂ GELU(W₁ LN(z)))

    Origin: written from the paper; the authors' code is MIT.

    Args:
        channels: channels of the input.
        order: order of the gnConv.
        filter: builds the filter, as in `GnConv`.
        layer_scale: first value of the branches' scales.
        drop_path: probability of dropping the branches of an image in training.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: (11 + 2·(1 - u²)/3)·c² + (116 - 52·u)·c parameters, ((11 + 2·(1 - u²)/3)·c² + 49·(2 - u)·c)·h·w
        multiply-adds, with u = 2^(1 - n); n is the order.

    Raises:
        ValueError: as `GnConv`.

    >>> HorNetBlock(64, order=3)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(
        self,
        channels: int,
        order: int,
        *,
        filter: Filter = depthwise_7x7,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_number(layer_scale=layer_scale)
        require_rate(drop_path=drop_path)
        self.gnconv_norm = LayerNorm2d(channels)
        self.gnconv = GnConv(channels, order, filter=filter)
        self.gnconv_scale = LayerScale(channels, layer_scale)
        self.mlp_norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.mlp_scale = LayerScale(channels, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gnconv_scale(self.gnconv(self.gnconv_norm(x))))
        y = self.mlp(self.mlp_norm(rearrange(x, "b c h w -> b h w c")))
        return x + self.drop_path(self.mlp_scale(rearrange(y, "b h w c -> b c h w")))
