"""The file of tensors that were computed once; its damages are in test_folders.py."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from cifarblocks.training.data.cache import write_cache
from cifarblocks.training.errors import is_out_of_memory


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_tensors_for_whose_copies_there_is_no_memory_are_an_error(tmp_path):
    tensors = {"pixels": torch.empty(2**28, dtype=torch.uint8)}
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    kept = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 3 * 2**27, kept[1]))  # for one copy and a half
    try:
        with pytest.raises(RuntimeError) as caught:
            write_cache(tmp_path / "cache.safetensors", tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)
    assert is_out_of_memory(caught.value)
    assert not [*tmp_path.iterdir()]
