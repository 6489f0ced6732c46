"""The file of tensors that were computed once; its damages are in test_folders.py."""

import subprocess
import sys

import pytest

# In a process of its own: memory that other tests give back in the meantime would make room for the copies.
WITHOUT_MEMORY = """
import resource
import sys
from pathlib import Path

import torch

from cifarblocks.training.data.cache import write_cache
from cifarblocks.training.errors import is_out_of_memory

tensors = {"pixels": torch.empty(2**28, dtype=torch.uint8)}
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 3 * 2**27, resource.RLIM_INFINITY))  # for one copy and a half
try:
    write_cache(Path(sys.argv[1]), tensors)
except RuntimeError as error:
    print(is_out_of_memory(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_tensors_for_whose_copies_there_is_no_memory_are_an_error(tmp_path):
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(tmp_path / "cache.safetensors")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.stdout == "True\n", finished.stderr
    assert not [*tmp_path.iterdir()]
