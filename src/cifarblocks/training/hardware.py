"""The hardware of a run: its names for the record, bfloat16 support, and memory."""

import ctypes
import math
import os
import platform
from typing import Any

import torch

import cifarblocks
from cifarblocks.training.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory in the process (glibc mallopt): returning it costs much of a training step on a CPU.

    Each step frees and allocates maps of the same sizes. Memory returned to the kernel costs a page fault at each
    reuse. Other C libraries are left as they are.
    """
    if os.name == "nt":
        return  # CDLL(None) is the C library elsewhere
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(M_MMAP_THRESHOLD, 2**30)


def supports_bfloat16(device: torch.device) -> bool:
    """Return True if the device computes fast in bfloat16: a GPU that has it, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bfloat16_instructions() is not None


def bfloat16_instructions() -> str | None:
    """Return what the CPU multiplies bfloat16 with, "amx_bf16" or "avx512_bf16", or None."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return None
    return next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), None)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries."""
    import torchvision  # here: images are scored without it

    return {
        "cifarblocks": cifarblocks.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return the processor, its cores, the threads of this process, and the GPU of a device."""
    record: dict[str, Any] = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        record["gpu"] = torch.cuda.get_device_name(device)
    return record


def available_memory() -> float:
    """Return the bytes of main memory that are free or used for caches; infinite if not on Linux."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def check_memory(images: int, height: int, width: int, option: str) -> None:
    """Refuse images whose pixels do not fit in memory: Linux would kill the process without a message.

    Args:
        images: Number of the images.
        height: Height of each image.
        width: Width of each image.
        option: Option that makes them large, for the message.

    Raises:
        UserError: If they do not fit.
    """
    needed, free = 3 * images * height * width, available_memory()
    if needed > free:
        raise UserError(
            f"{option}: {images:,} images of {height}x{width} need {needed / 2**30:,.1f} GiB of memory, "
            f"and {free / 2**30:,.1f} GiB are free"
        )


def cpu_name() -> str:
    """Return the processor's name on Linux, and the architecture elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
