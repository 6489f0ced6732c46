"""Loops for CPUs that torch has no fast form of, in C++; what may be given to them, and where torch's own serve."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from cifarblocks.native.compiling import library

__all__ = ["is_vector", "library", "may_serve"]


def may_serve(*tensors: Tensor) -> bool:
    """Return True if all tensors are plain CPU tensors and no tracing or transform is active."""
    return (
        torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
        and all(not dispatch_keys(tensor) & ~PLAIN for tensor in tensors)
    )


def is_vector(tensor: Tensor | None, length: int, dtype: torch.dtype | None) -> bool:
    """Return True if the memory of a plain CPU tensor is so many numbers of that type, one beside the other."""
    return (
        isinstance(tensor, Tensor)
        and tensor.dtype == dtype
        and tensor.shape == (length,)
        and tensor.is_contiguous()
        and not dispatch_keys(tensor) & ~PLAIN
    )


def dispatch_keys(tensor: Tensor) -> int:
    """Return the bits by which torch tells kinds of tensors: device, subclass, fake, batched, negated, ..."""
    return torch._C._dispatch_keys(tensor).raw_repr()


PLAIN = dispatch_keys(torch.empty(0, device="cpu"))
