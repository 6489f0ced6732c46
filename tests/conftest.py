import os

import pytest
import torch
from hypothesis import settings

os.environ["CIFARBLOCKS_NATIVE"] = "0"  # test_depthwise.py, test_batch_norm.py and tests/native turn it on
torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for each other

settings.register_profile("local", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch):
    """What is equal to the bit, or takes two processes, is so on CPUs; test_gpu.py has its GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for scripts
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
