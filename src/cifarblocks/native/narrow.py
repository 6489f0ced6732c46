"""Convolutions of narrow maps, with images side by side.

AMX multiplies 16 rows of a matrix at a time, and oneDNN fills them along the width of a map. A map of 4×4 fills a
quarter of them. 16 such images beside each other, with a column of zeros after each, fill nearly all.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.fx import Proxy

from cifarblocks.native import amx, call_module, computed_dtype, layout_of, may_serve

MOST = 16  # images side by side: more only make longer rows


class NarrowConv2d(nn.Conv2d):
    """3×3 convolution that computes narrow maps side by side."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return call_module(self, x)
        if torch.compiler.is_compiling() or type(self) is not NarrowConv2d or not self.fits(self):
            return super().forward(x)
        images = images_in_a_row(self, x) if may_serve(x, self.weight) else 1
        if images == 1:
            return super().forward(x)
        row = side_by_side(x.to(computed_dtype(x)), images, self.stride[0])
        return apart(super().forward(row), images, output_width(self, x))

    @staticmethod
    def fits(conv: Any) -> bool:
        """Return True for an ungrouped 3×3 convolution of stride 1 or 2, padded with one zero, of many channels."""
        return (
            "weight" in conv._parameters  # and not computed from others, as by pruning
            and conv.groups == 1
            and conv.kernel_size == (3, 3)
            and conv.padding == conv.dilation == (1, 1)
            and conv.padding_mode == "zeros"
            and conv.stride in ((1, 1), (2, 2))
            and conv.in_channels >= 64
        )


def images_in_a_row(conv: Any, x: Tensor) -> int:
    """Return how many images to compute side by side; 1 where torch is faster, as measured with AMX in bfloat16."""
    if not (amx() and x.ndim == 4 and x.numel() and computed_dtype(x) == torch.bfloat16):
        return 1
    if layout_of(x) != torch.channels_last or x.shape[1] != conv.in_channels:
        return 1
    images, values = math.gcd(len(x), MOST), len(x) * conv.in_channels
    if torch.is_grad_enabled() and conv.weight.requires_grad:
        widest = 8 if conv.in_channels >= 256 else 4
        gains = values >= 2048 and output_width(conv, x) <= widest
    else:
        gains = values >= 4096 and output_width(conv, x) <= 4 and conv.in_channels >= 256
    return images if gains and images >= 4 else 1


def output_width(conv: Any, x: Tensor) -> int:
    """Return the width of the output of a convolution that `NarrowConv2d` fits."""
    return (x.shape[3] - 1) // conv.stride[1] + 1


def side_by_side(x: Tensor, images: int, stride: int) -> Tensor:
    """Put images beside each other, each with zeros after it, so that each begins at a multiple of the stride.

    Shape: (b, c, h, w) → (b / images, c, h, images · (w + zeros))
    """
    zeros = 1 + -(x.shape[3] + 1) % stride
    row = F.pad(rearrange(x, "b c h w -> b h w c"), (0, 0, 0, zeros))
    return rearrange(row, "(b i) h w c -> b h (i w) c", i=images).permute(0, 3, 1, 2)


def apart(y: Tensor, images: int, width: int) -> Tensor:
    """Take images of that width out of rows of several.

    Shape: (b, c, h, images · w) → (b · images, c, h, width)
    """
    return rearrange(y, "b c h (i w) -> (b i) h w c", i=images)[:, :, :width].contiguous().permute(0, 3, 1, 2)
