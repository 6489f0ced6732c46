"""Layer normalisation on CPUs by our kernels: Ba et al. 2016, https://arxiv.org/abs/1607.06450."""

from ctypes import c_double
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from cifarblocks.native import PARAMETER_DTYPES, call_kernel, call_module, is_vector, may_serve, sizes_of
from cifarblocks.native.compiling import library

# Torch is as fast on fewer numbers, where rows are long, and in float32.
LEAST, MOST_CHANNELS = 2**16, {torch.bfloat16: 512, torch.float32: 0, torch.float64: 0}


class NativeLayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis by our kernels, where they are faster on a CPU: where that is short."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return call_module(self, x) if type(self) is NativeLayerNorm else super().forward(x)
        if not self.gains(x) or not library():
            return super().forward(x)
        weight, bias = (vector.to(PARAMETER_DTYPES[x.dtype]) for vector in (self.weight, self.bias))
        return LayerNormalisation.apply(x, weight, bias, self.eps)

    def gains(self, x: Tensor) -> bool:
        """Return True if our kernels are faster than torch's and can read all that they are given."""
        return (
            not torch.compiler.is_compiling()
            and x.dtype in PARAMETER_DTYPES
            and x.numel() >= LEAST
            and x.shape[-1:] == self.normalized_shape
            and x.shape[-1] <= MOST_CHANNELS[x.dtype]
            and may_serve(x)
            and x.is_contiguous()
            and self.eps >= 0
            and all(self.can_read(vector, x) for vector in (self.weight, self.bias))
        )

    @staticmethod
    def can_read(vector: Tensor | None, x: Tensor) -> bool:
        """Return True if a weight or bias fits the input; that of bfloat16 is converted first."""
        return any(is_vector(vector, x.shape[-1], dtype) for dtype in (PARAMETER_DTYPES[x.dtype], x.dtype))

    @staticmethod
    def fits(norm: nn.Module) -> bool:
        """Return True for a norm whose weight and bias are parameters of its own, and not computed from others."""
        return all(norm._parameters.get(name) is not None for name in ("weight", "bias"))


class LayerNormalisation(torch.autograd.Function):
    """Layer normalisation over the last axis by our kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean = torch.empty_like(x), weight.new_empty(*x.shape[:-1], 1)
        inverse_deviation = torch.empty_like(mean)
        call_kernel(
            "layer_norm",
            x.dtype,
            (x, weight, bias, y, mean, inverse_deviation),
            *sizes_of(x, x.shape[-1]),
            c_double(eps),
        )
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        if torch.is_grad_enabled() or not can_read(x, gradient, weight, mean, inverse_deviation):
            # Torch's own can be differentiated, batched and recorded.
            gradients = torch.ops.aten.native_layer_norm_backward(
                gradient, x, x.shape[-1:], mean, inverse_deviation, weight, bias, (True, True, True)
            )
        else:
            gradients = (torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias))
            tensors = (x, gradient.contiguous(), weight, mean, inverse_deviation, *gradients)
            call_kernel("layer_norm_backward", x.dtype, tensors, *sizes_of(x, x.shape[-1]))
        return *gradients, None


def can_read(x: Tensor, gradient: Tensor, weight: Tensor, *of_rows: Tensor) -> bool:
    """Return True if our kernels can read the inputs of backward; hooks may have changed the saved tensors."""
    dtype = PARAMETER_DTYPES.get(x.dtype)
    return (
        may_serve(x, gradient)
        and x.is_contiguous()
        and (x.dtype, x.shape) == (gradient.dtype, gradient.shape)
        and is_vector(weight, x.shape[-1], dtype)
        and all(is_vector(tensor.flatten(), x.numel() // x.shape[-1], dtype) for tensor in of_rows)
    )
