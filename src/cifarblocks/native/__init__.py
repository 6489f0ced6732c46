"""Faster layers for CPUs: C++ kernels, the layers that call them, and the conditions under which torch's own serve."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import Proxy

from cifarblocks.native.compiling import library

__all__ = ["call_module", "is_vector", "library", "may_serve"]


def may_serve(*tensors: Tensor) -> bool:
    """Return True if all tensors are plain CPU tensors and no tracing or transform is active."""
    return (
        torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and all(map(is_plain, tensors))
    )


def is_vector(tensor: Tensor | None, length: int, dtype: torch.dtype | None) -> bool:
    """Return True if the memory of a plain CPU tensor is so many numbers of that type, one beside the other."""
    return (
        isinstance(tensor, Tensor)
        and tensor.dtype == dtype
        and tensor.shape == (length,)
        and tensor.is_contiguous()
        and is_plain(tensor)
    )


def is_plain(tensor: Tensor) -> bool:
    """Return True if a tensor is on the CPU and nothing else, and its memory is there; FSDP frees it at times."""
    if dispatch_keys(tensor) & ~PLAIN:
        return False
    needed = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    return tensor.untyped_storage().nbytes() >= needed


def call_module(module: nn.Module, x: Proxy) -> Proxy:
    """Record a call of one of our layers as fx records those of torch: as a leaf of the graph."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})  # type: ignore[attr-defined]


def dispatch_keys(tensor: Tensor) -> int:
    """Return the bits by which torch tells kinds of tensors: device, subclass, fake, batched, negated, ..."""
    return torch._C._dispatch_keys(tensor).raw_repr()


PLAIN = dispatch_keys(torch.empty(0, device="cpu"))
