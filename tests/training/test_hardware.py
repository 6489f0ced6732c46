"""In a command freed memory stays, so that the same allocations fault no pages again."""

import platform

import pytest

PROGRAM = """
import ctypes, resource, torch
from cifarblocks.training.stopping import exit_status
# glibc's first thresholds, held: by itself it may raise them, and then it keeps memory by chance.
for threshold in (-1, -3):  # of trimming, of mmap
    ctypes.CDLL(None).mallopt(threshold, 131072)
def step():
    maps = [torch.ones(2**21, dtype=torch.uint8) for _ in range(32)]
def faults():
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)
faults()
exit_status("script.py", faults, "")
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="another C library")
def test_what_is_freed_is_used_again_without_page_faults(together, tmp_path):
    (tmp_path / "faults.py").write_text(PROGRAM)
    before, after = map(int, together(str(tmp_path / "faults.py"), processes=1).stdout.split())
    assert 10 * after < before
