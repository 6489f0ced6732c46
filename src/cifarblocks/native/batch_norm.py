"""Batch normalisation in training on CPUs by our kernels: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167."""

from ctypes import c_double, c_int64
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from cifarblocks.native import call_kernel, call_module, is_vector, may_serve
from cifarblocks.native.compiling import library

# Dtype of the input → dtype of the parameters; torch computes other mixtures.
PARAMETER_DTYPES = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
# Our kernels are faster between these numbers: on fewer values the call costs more, on more both wait for the memory.
LEAST, MOST = 2**16, {torch.bfloat16: 2**62, torch.float32: 2**20, torch.float64: 2**20}


class NativeBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by our kernels where they are faster: in training, on large channels_last maps of a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return call_module(self, x)
        if not self.gains(x) or not library():
            return super().forward(x)
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        running = (self.running_mean, self.running_var)
        return BatchNormalisation.apply(x, self.weight, self.bias, *running, self.eps, self.momentum)

    def gains(self, x: Tensor) -> bool:
        """Return True if our kernels are faster than torch's and can read all that they are given."""
        return (
            type(self) is NativeBatchNorm2d  # and not parametrised since, which computes its parameters at each look
            and self.training
            and not torch.compiler.is_compiling()
            and x.ndim == 4
            and LEAST <= x.numel() <= MOST.get(x.dtype, 0)
            and x.numel() > x.shape[1] == self.num_features
            and may_serve(x)  # first: under vmap torch cannot tell whether x is channels_last
            and x.is_contiguous(memory_format=torch.channels_last)
            and self.track_running_stats
            and self.num_batches_tracked is not None
            and isinstance(self.momentum, float)
            and 0 <= self.momentum <= 1
            and self.eps > 0
            and all(
                is_vector(tensor, self.num_features, PARAMETER_DTYPES[x.dtype])
                for tensor in (self.weight, self.bias, self.running_mean, self.running_var)
            )
            and not (self.running_mean.requires_grad or self.running_var.requires_grad)  # type: ignore[union-attr]
        )

    @staticmethod
    def fits(norm: nn.Module) -> bool:
        """Return True for a norm whose weight is a parameter of its own, and not computed from others."""
        return norm._parameters.get("weight") is not None


class BatchNormalisation(torch.autograd.Function):
    """Batch normalisation with the statistics of the batch, by our kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
    ) -> Tensor:
        y, mean, inverse_deviation = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        tensors = (x, weight, bias, running_mean, running_var, y, mean, inverse_deviation)
        call_kernel("batch_norm", tensors, *sizes(x), c_double(eps), c_double(momentum))
        ctx.save_for_backward(x, weight, mean, inverse_deviation)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_deviation = ctx.saved_tensors
        if torch.is_grad_enabled() or not can_read(x, gradient, weight, mean, inverse_deviation):
            # Torch's own can be differentiated, batched and recorded.
            gradients = torch.ops.aten.native_batch_norm_backward(
                gradient, x, weight, None, None, mean, inverse_deviation, True, ctx.eps, (True, True, True)
            )
        else:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            gradients = (torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight))
            call_kernel("batch_norm_backward", (x, gradient, weight, mean, inverse_deviation, *gradients), *sizes(x))
        return *gradients, None, None, None, None


def can_read(x: Tensor, gradient: Tensor, *vectors: Tensor) -> bool:
    """Return True if our kernels can read what backward is given; hooks on saved tensors may have changed it."""
    return (
        may_serve(x, gradient)
        and x.is_contiguous(memory_format=torch.channels_last)
        and (x.dtype, x.shape) == (gradient.dtype, gradient.shape)
        and all(is_vector(vector, x.shape[1], PARAMETER_DTYPES.get(x.dtype)) for vector in vectors)
    )


def sizes(x: Tensor) -> tuple[c_int64, c_int64]:
    """Return the rows and the channels of a channels_last map as our kernels read it."""
    return c_int64(x.numel() // x.shape[1]), c_int64(x.shape[1])
