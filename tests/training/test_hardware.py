"""In a script freed memory stays, so that the same allocations fault no pages again."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from cifarblocks.training.stopping import exit_status
def step():
    maps = [torch.ones(2**21, dtype=torch.uint8) for _ in range(32)]
def faults():
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults()
exit_status("script.py", faults, "")
"""
# glibc's first thresholds, held: by itself it may raise them, and then it keeps memory by chance.
FIRST = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@pytest.mark.skipif("glibc" not in " ".join(__import__("platform").libc_ver()), reason="another C library")
def test_what_is_freed_is_used_again_without_page_faults():
    command = [sys.executable, "-c", PROGRAM]
    finished = subprocess.run(command, env=os.environ | FIRST, check=True, capture_output=True, text=True)
    before, after = map(int, finished.stdout.split())
    assert 10 * after < before
