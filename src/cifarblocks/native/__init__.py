"""Faster layers for CPUs: C++ kernels, the layers that call them, and the conditions for using torch's own."""

from collections.abc import Sequence
from ctypes import Array, c_double, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import Proxy

from cifarblocks.native.compiling import library

# Dtype of the input → dtype of the parameters; torch computes other mixtures.
PARAMETER_DTYPES = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}


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
    """Return True for a plain CPU tensor of so many contiguous numbers of that dtype."""
    return (
        isinstance(tensor, Tensor)
        and tensor.dtype == dtype
        and tensor.shape == (length,)
        and tensor.is_contiguous()
        and is_plain(tensor)
    )


def is_plain(tensor: Tensor) -> bool:
    """Return True for a plain CPU tensor whose memory is allocated; FSDP frees it at times."""
    # Dispatch keys show the kind of a tensor: subclass, fake, batched, negated, ... Their difference ignores devices.
    keys = torch._C._dispatch_keys(tensor)
    if (keys - PLAIN).highestPriorityTypeId() != torch._C.DispatchKey.Undefined or not tensor.is_cpu:
        return False
    needed = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    return tensor.untyped_storage().nbytes() >= needed


def computed_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast computes in; it leaves float64 alone."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if autocast else x.dtype


@cache
def amx() -> bool:
    """Return True if this processor has AMX."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())  # torch 2.4 has no such function


def layout_of(x: Tensor) -> torch.memory_format:
    """Return channels_last or the contiguous format."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def sizes_of(x: Tensor, channels: int) -> tuple[c_int64, c_int64]:
    """Return the numbers of rows and channels of a tensor that a kernel reads as rows of channels."""
    return c_int64(x.numel() // channels), c_int64(channels)


def call_module(module: nn.Module, x: Proxy) -> Proxy:
    """Record a call of one of our layers as fx records those of torch: as a leaf of the graph."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})  # type: ignore[attr-defined]


def call_kernel(
    name: str, dtype: torch.dtype, tensors: Sequence[Tensor | None], *numbers: c_double | c_int64 | Array[c_int64]
) -> None:
    """Call the kernel of that name and dtype, on as many threads as torch takes; None is the null pointer."""
    kernel = getattr(library(), f"{name}_{str(dtype).removeprefix('torch.')}")
    pointers = [c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    kernel(*pointers, *numbers, torch.get_num_threads())


PLAIN = torch._C._dispatch_keys(torch.empty(0, device="cpu"))
