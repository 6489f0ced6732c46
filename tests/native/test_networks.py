"""Whole networks through accelerate: a step of training is that of torch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from references import randomise
from torch import nn

import cifarblocks
from cifarblocks import native
from cifarblocks.native import batch_norm, depthwise

NAMES = ["convnext_atto_cifar", "ghost_resnet_20", "hornet_nano_cifar", "lsknet_tiny_cifar", "segnext_mscan_tiny_cifar"]


@pytest.fixture
def used(monkeypatch):
    """Which kinds of layers have gone through the loops."""
    kinds = set()
    loops, gradient = batch_norm.call_kernel, depthwise.weight_gradient
    monkeypatch.setattr(batch_norm, "call_kernel", lambda *given: kinds.add(nn.BatchNorm2d) or loops(*given))
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *given: kinds.add(nn.Conv2d) or gradient(*given))
    return kinds


@pytest.fixture(autouse=True)
def empty_memory():
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def gradients(model, x):
    """Of one step, by their names."""
    model = copy.deepcopy(model)
    F.cross_entropy(model(x), torch.arange(len(x))).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_torch_and_of_gradient_checkpointing(name, used, monkeypatch):
    model = randomise(cifarblocks.create_model(name, num_classes=10).double()).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64).to(memory_format=torch.channels_last)
    torchs = gradients(model, x)
    assert not used
    monkeypatch.delenv("CIFARBLOCKS_NATIVE")
    native.library.cache_clear()
    cifarblocks.accelerate(model)
    ours = gradients(model, x)
    assert used
    model.set_gradient_checkpointing(True)
    again = gradients(model, x)
    least = 1e-11 * max(gradient.abs().max().item() for gradient in torchs.values())  # biases before a norm have none
    torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=least)
    torch.testing.assert_close(again, torchs, rtol=1e-9, atol=least)
