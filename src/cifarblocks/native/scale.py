"""A factor for each channel of a map, with gradients in one pass, by our kernels on CPUs."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from cifarblocks.native import PARAMETER_DTYPES, call_kernel, is_vector, may_serve, sizes_of
from cifarblocks.native.compiling import library

# Numbers: torch is as fast on fewer.
LEAST = {torch.bfloat16: 2**16, torch.float32: 2**20, torch.float64: 2**20}


def gains(x: Tensor, factor: Tensor) -> bool:
    """Return True if our kernels are faster than torch's and can read x and the factors."""
    return (
        not torch.compiler.is_compiling()
        and x.ndim == 4
        and x.dtype in PARAMETER_DTYPES
        and x.numel() >= LEAST[x.dtype]
        and may_serve(x)
        and x.is_contiguous(memory_format=torch.channels_last)
        and is_vector(factor, x.shape[1], PARAMETER_DTYPES[x.dtype])
        and library() is not None
    )


class ChannelScale(torch.autograd.Function):
    """A channels_last map times a factor for each channel; the product has the dtype of the factors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        y = torch.empty_like(x, dtype=factor.dtype)
        call_kernel("scale", x.dtype, (x, factor, y), *sizes_of(x, x.shape[1]))
        ctx.save_for_backward(x, factor)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, factor = ctx.saved_tensors
        if torch.is_grad_enabled() or not can_read(x, factor, gradient):
            # Torch's own can be differentiated, batched and recorded.
            return (gradient * rearrange(factor, "c -> c 1 1")).to(x.dtype), (gradient * x).sum((0, 2, 3))
        x_gradient, factor_gradient = torch.empty_like(x), torch.empty_like(factor)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        call_kernel(
            "scale_backward", x.dtype, (x, gradient, factor, x_gradient, factor_gradient), *sizes_of(x, x.shape[1])
        )
        return x_gradient, factor_gradient


def can_read(x: Tensor, factor: Tensor, gradient: Tensor) -> bool:
    """Return True if our kernels can read the inputs of backward; hooks may have changed the saved tensors."""
    return (
        may_serve(x, gradient)
        and x.shape == gradient.shape
        and x.is_contiguous(memory_format=torch.channels_last)
        and gradient.dtype == PARAMETER_DTYPES.get(x.dtype)
        and is_vector(factor, x.shape[1], gradient.dtype)
    )
