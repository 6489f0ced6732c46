"""Fixtures that turn the C++ kernels on for a test and record which ran; other tests have them off."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL
from functools import cache

import pytest
import torch

from cifarblocks import native
from cifarblocks.native import batch_norm, compiling, depthwise, layer_norm, scale


class Recorded:
    """The library, which adds the name of each kernel that is asked of it to a list."""

    def __init__(self, library: CDLL, names: list[str]) -> None:
        self.library, self.names = library, names

    def __getattr__(self, name: str) -> object:
        self.names.append(name.rpartition("_")[0])  # without the dtype
        return getattr(self.library, name)


@cache
def compiled_library() -> CDLL:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(os.environ, "CIFARBLOCKS_NATIVE")
        library = compiling.library.__wrapped__()
    assert library is not None, "there is no C++ compiler"
    return library


@contextmanager
def kernels_on() -> Iterator[list[str]]:
    """Use the kernels wherever they can compute, slower or not; the names of those that ran, in their order."""
    names: list[str] = []
    recorded = Recorded(compiled_library(), names)
    with pytest.MonkeyPatch.context() as patch:
        for module in (native, batch_norm, depthwise, layer_norm, scale):
            patch.setattr(module, "library", lambda: recorded)
        for module in (batch_norm, layer_norm):
            patch.setattr(module, "LEAST", 1)
        for dtype in layer_norm.MOST_CHANNELS:
            patch.setitem(layer_norm.MOST_CHANNELS, dtype, 2**62)
            patch.setitem(scale.LEAST, dtype, 1)
        patch.setattr(depthwise, "are_faster", lambda *_: True)
        yield names


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch and the kernels use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
