"""Batch normalisation in training on CPUs by our kernels: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167."""

from collections.abc import Callable, Sequence
from ctypes import c_double, c_int64
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from cifarblocks.native import PARAMETER_DTYPES, call_kernel, call_module, is_vector, layout_of, may_serve, sizes_of
from cifarblocks.native.compiling import library

# Our kernels are faster between these numbers: on fewer values the call costs more, on more both wait for the memory.
LEAST, MOST = 2**16, {torch.bfloat16: 2**62, torch.float32: 2**20, torch.float64: 2**20}


class NativeBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by our kernels where they are faster: in training, on large channels_last maps of a CPU."""

    deferring = False  # True while a block runs in which a ReLU alone reads the output

    def forward(self, x: Tensor) -> Any:
        """Return the normalised map, or a `Deferred` that the block's ReLU computes."""
        if isinstance(x, Proxy):
            return call_module(self, x)
        if self.deferring and self.infers(x):
            return Deferred(self, x)
        if not self.serves(x) or not library():
            return super().forward(x)
        return Deferred(self, x) if self.deferring else self.normalised(x)

    def normalised(self, x: Tensor) -> Tensor:
        """Return the normalised map, by our kernels where they are faster."""
        if self.training and x.numel() <= MOST[x.dtype]:
            return self.computed(x, None, False)
        return super().forward(x)

    def rectified(self, x: Tensor, other: Tensor | None) -> Tensor:
        """Return ReLU(norm(x) + other): by our kernels in training, or else in the memory of the normalised map."""
        if self.training:
            return self.computed(x, other, True)
        y = super().forward(x)
        return (y if other is None else y.add_(other)).relu_()

    def computed(self, x: Tensor, other: Tensor | None, rectified: bool) -> Tensor:
        """Return the normalised map by our kernels, optionally with another map added and a ReLU after it."""
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        parameters = (self.weight, self.bias, self.running_mean, self.running_var)
        return BatchNormalisation.apply(x, other, *parameters, self.eps, self.momentum, rectified)

    def serves(self, x: Tensor) -> bool:
        """Return True if our kernels can read all inputs, and the map is not small."""
        return (
            type(self) is NativeBatchNorm2d  # a parametrised norm computes its parameters at each access
            and self.training
            and not torch.compiler.is_compiling()
            and x.ndim == 4
            and x.numel() >= LEAST
            and x.dtype in PARAMETER_DTYPES
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

    def infers(self, x: Tensor) -> bool:
        """Return True in inference, where the normalised map is a plain tensor that nothing else needs."""
        return not (self.training or torch.is_grad_enabled()) and may_serve(x)

    @staticmethod
    def fits(norm: nn.Module) -> bool:
        """Return True for a norm whose weight is a parameter of its own, and not computed from others."""
        return norm._parameters.get("weight") is not None


class Deferred:
    """Normalised map, with or without an addition, that is computed later: by the ReLU after it.

    Any other function of torch computes it first.
    """

    def __init__(self, norm: NativeBatchNorm2d, x: Tensor, other: Tensor | None = None) -> None:
        self.norm, self.x, self.other = norm, x, other

    def __add__(self, other: Tensor) -> "Deferred | Tensor":
        if self.other is None and are_alike(self.x, other):
            return Deferred(self.norm, self.x, other)
        return self.map() + other

    def map(self) -> Tensor:
        """Return the tensor."""
        normalised = self.norm.normalised(self.x)
        return normalised if self.other is None else normalised + self.other

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: object, arguments: Sequence[Any] = (), keywords: Any = None
    ) -> Any:
        if function is F.relu:
            return arguments[0].norm.rectified(arguments[0].x, arguments[0].other)
        arguments = [argument.map() if isinstance(argument, cls) else argument for argument in arguments]
        return function(*arguments, **(keywords or {}))


class BatchNormalisation(torch.autograd.Function):
    """Batch normalisation with the statistics of the batch by our kernels, with the addition and the ReLU after it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        other: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
        rectified: bool,
    ) -> Tensor:
        y, mean, inverse_deviation = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        tensors = (x, other, weight, bias, running_mean, running_var, y, mean, inverse_deviation)
        numbers = (c_double(eps), c_double(momentum), c_int64(rectified))
        call_kernel("batch_norm", x.dtype, tensors, *sizes_of(x, x.shape[1]), *numbers)
        ctx.save_for_backward(x, None if other is None else y, weight, bias, mean, inverse_deviation)
        ctx.eps, ctx.rectified = eps, rectified
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        if torch.is_grad_enabled() or not can_read(x, y, gradient, weight, bias, mean, inverse_deviation):
            # Torch's own can be differentiated, batched and recorded.
            if ctx.rectified:
                gradient = gradient.masked_fill(are_rectified(x, y, weight, bias, mean, inverse_deviation), 0)
            for_x, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, x, weight, None, None, mean, inverse_deviation, True, ctx.eps, (True, True, True)
            )
            for_other = None if y is None else gradient
        else:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            for_x, for_weight, for_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
            for_other = None if y is None else torch.empty_like(x)
            tensors = (x, y, gradient, weight, bias, mean, inverse_deviation, for_x, for_other, for_weight, for_bias)
            call_kernel("batch_norm_backward", x.dtype, tensors, *sizes_of(x, x.shape[1]), c_int64(ctx.rectified))
        return for_x, for_other, for_weight, for_bias, None, None, None, None, None


@torch.no_grad()
def are_rectified(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, inverse_deviation: Tensor
) -> Tensor:
    """Return a mask of the places where the ReLU gives 0, from its output y if there is one."""
    if y is None:
        mean, scale, bias = (vector.view(-1, 1, 1) for vector in (mean, weight * inverse_deviation, bias))
        y = (x - mean) * scale + bias
    return y <= 0


def can_read(x: Tensor, y: Tensor | None, gradient: Tensor, *vectors: Tensor) -> bool:
    """Return True if our kernels can read the inputs of backward; hooks may have changed the saved tensors."""
    return (
        may_serve(x, gradient)
        and x.is_contiguous(memory_format=torch.channels_last)
        and (x.dtype, x.shape) == (gradient.dtype, gradient.shape)
        and (y is None or are_alike(x, y))
        and all(is_vector(vector, x.shape[1], PARAMETER_DTYPES.get(x.dtype)) for vector in vectors)
    )


def are_alike(x: Tensor, other: Any) -> bool:
    """Return True if another map has the dtype, shape and layout of x, and our kernels can read it."""
    return (
        isinstance(other, Tensor)
        and (x.dtype, x.shape) == (other.dtype, other.shape)
        and may_serve(other)
        and layout_of(other) == layout_of(x)
    )
