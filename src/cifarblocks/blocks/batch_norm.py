"""Batch normalisation: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167."""

from ctypes import c_double, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn

from cifarblocks.blocks.sizes import require_at_least
from cifarblocks.native import is_vector, library, may_serve

# Of the input → of the parameters; other mixtures are left to torch.
PARAMETER_DTYPES = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
# Numbers in the input between which our loops are faster: calling them takes as long as what they save on fewer, and of
# more in float32 torch is as fast, for then both wait for the memory.
LEAST, MOST = 2**16, {torch.bfloat16: 2**62, torch.float32: 2**20, torch.float64: 2**20}


class BatchNorm2d(nn.BatchNorm2d):
    """Normalise each channel by its mean and variance over the batch, then scale and shift it (algorithm 1).

    It is torch's, and is exported, compiled and fused as that. In training on a CPU, channels last, it is computed by
    loops of our own (`cifarblocks.native`), which sum in float32 and float64, where they are faster.

    Formula: y = weight ⊙ (x - mean_bhw x) / √(var_bhw x + eps) + bias; in eval mode with the running mean and variance

    Origin: written from the paper; it is torch's BatchNorm2d (BSD-3).

    Args:
        channels: channels of the input.
        eps: added to the variance.
        momentum: the share that a batch has in the running mean and variance.

    Shape: (b, c, h, w) → (b, c, h, w), any h and w.

    Cost: 2·c parameters, 0 multiply-adds.

    Raises:
        ValueError: if `channels` is below 1, `eps` negative, `momentum` not in [0, 1], or in training if there is one
            value a channel.

    >>> BatchNorm2d(64)(torch.randn(2, 64, 8, 5)).shape
    torch.Size([2, 64, 8, 5])
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        require_at_least(1, channels=channels)
        require_at_least(0, eps=eps, momentum=momentum)
        if momentum > 1:
            raise ValueError(f"momentum must be at most 1, got {momentum}")
        super().__init__(channels, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        if not self.gains(x) or not may_serve(x) or not library():
            return super().forward(x)
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        running = (self.running_mean, self.running_var)
        return BatchNormalisation.apply(x, self.weight, self.bias, *running, self.eps, self.momentum)

    def gains(self, x: Tensor) -> bool:
        """Whether our loops are faster than torch's, and compute what it would, a question that costs little."""
        return (
            self.training
            and not torch.compiler.is_compiling()
            and isinstance(x, Tensor)
            and x.ndim == 4
            and LEAST <= x.numel() <= MOST.get(x.dtype, 0)
            and x.numel() > x.shape[1] == self.num_features
            and x.is_contiguous(memory_format=torch.channels_last)
            and self.momentum is not None
            and self.num_batches_tracked is not None
            and all(
                is_vector(tensor, self.num_features, PARAMETER_DTYPES[x.dtype])
                for tensor in (self.weight, self.bias, self.running_mean, self.running_var)
            )
        )


class BatchNormalisation(torch.autograd.Function):
    """Batch normalisation with the statistics of the batch, by the compiled loops."""

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
        call("batch_norm", tensors, c_double(eps), c_double(momentum))
        ctx.save_for_backward(x, weight, mean, inverse_deviation)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_deviation = ctx.saved_tensors
        if torch.is_grad_enabled() or not fits(x, gradient, weight, mean, inverse_deviation):
            # Torch's own can be differentiated, batched and recorded.
            gradients = torch.ops.aten.native_batch_norm_backward(
                gradient, x, weight, None, None, mean, inverse_deviation, True, ctx.eps, (True, True, True)
            )
        else:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            gradients = (torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight))
            call("batch_norm_backward", (x, gradient, weight, mean, inverse_deviation, *gradients))
        return *gradients, None, None, None, None


def fits(x: Tensor, gradient: Tensor, *vectors: Tensor) -> bool:
    """Return True if the loops can read what the backward pass is given; hooks on saved tensors may have changed it."""
    return (
        may_serve(x, gradient)
        and x.is_contiguous(memory_format=torch.channels_last)
        and (x.dtype, x.shape) == (gradient.dtype, gradient.shape)
        and all(is_vector(vector, x.shape[1], PARAMETER_DTYPES.get(x.dtype)) for vector in vectors)
    )


def call(name: str, tensors: tuple[Tensor, ...], *numbers: c_double) -> None:
    """Run the loops for the dtype of the first tensor, (b, c, h, w)."""
    x = tensors[0]
    loops = getattr(library(), f"{name}_{str(x.dtype).removeprefix('torch.')}")
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    pointers = [c_void_p(tensor.data_ptr()) for tensor in tensors]
    loops(*pointers, c_int64(rows), c_int64(channels), *numbers, torch.get_num_threads())
