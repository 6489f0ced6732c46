"""In a command freed memory stays, so that the same allocations fault no pages again; what does not fit is refused."""

import platform
import sys
from types import SimpleNamespace

import pytest
from refusals import refuses

from cifarblocks.training import hardware
from cifarblocks.training.data.datasets import load_data
from cifarblocks.training.errors import UserError, is_out_of_memory
from cifarblocks.training.models import build_model

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


@pytest.mark.skipif(sys.platform != "linux", reason="nothing says how much is free")
def test_some_memory_is_free():
    assert 2**20 < hardware.available_memory() < 2**50


@pytest.mark.parametrize("source", ["digits", "folder:{}"])
def test_images_that_do_not_fit_in_memory_are_refused(source, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "available_memory", lambda: 2.0**20)
    with refuses(UserError, "--image-size 300"):
        load_data(source.format(image_folder), tmp_path, 300)
    load_data(source.format(image_folder), tmp_path, 8)


def test_a_network_that_does_not_fit_in_memory_is_no_mistake_of_its_arguments():
    with pytest.raises(RuntimeError) as raised:
        build_model("mlp", {}, SimpleNamespace(classes=["a"], image_size=(2**19, 2**19)))
    assert is_out_of_memory(raised.value)
