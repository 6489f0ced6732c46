"""Convolutions of narrow maps side by side: equal to torch's, with its gradients."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import cifarblocks
from cifarblocks.native import amx, narrow
from cifarblocks.native.narrow import NarrowConv2d, apart, images_in_a_row, output_width, side_by_side

needs_amx = pytest.mark.skipif(not amx(), reason="torch's own convolution is as fast without AMX")


def pair(stride=1, channels=64, **options):
    """Ours, and torch's with the same weights."""
    torchs = nn.Conv2d(channels, 64, 3, stride, padding=1, **options).to(memory_format=torch.channels_last)
    return cifarblocks.accelerate(copy.deepcopy(torchs)), torchs


def maps(*sizes, dtype=torch.bfloat16):
    x = torch.randn(*sizes, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


def gradients(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape))
    return [y, x.grad, *(parameter.grad for parameter in module.parameters())]


few, side = st.integers(1, 5), st.integers(1, 9)


@given(few, few, side, side, st.sampled_from([1, 2]), st.booleans())
def test_rows_of_images_give_the_outputs_of_torch(rows, images, height, width, stride, bias):
    conv = nn.Conv2d(4, 6, 3, stride, padding=1, bias=bias, dtype=torch.float64)
    x = maps(rows * images, 4, height, width, dtype=torch.float64)
    row = side_by_side(x, images, stride)
    y, expected = apart(conv(row), images, output_width(conv, x)), conv(x)
    assert row.is_contiguous(memory_format=torch.channels_last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_the_gradients_are_those_of_torch(stride, bias, monkeypatch):
    monkeypatch.setattr(narrow, "images_in_a_row", lambda conv, x: 4)
    ours, torchs = (module.double() for module in pair(stride, bias=bias))
    assert type(ours) is NarrowConv2d
    x = maps(8, 64, 5, 3, dtype=torch.float64)
    for found, expected in zip(gradients(ours, x), gradients(torchs, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@needs_amx
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_under_autocast_the_result_is_within_the_rounding_of_torchs(size, stride):
    ours, torchs = pair(stride)
    x = maps(32, 64, size, size, dtype=torch.float32)
    assert images_in_a_row(ours, x) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert images_in_a_row(ours, x) == 16
        found, expected = gradients(ours, x), gradients(torchs, x)
    exact = gradients(copy.deepcopy(torchs).double(), x.double())
    for ours_is, torchs_is, should_be in zip(found, expected, exact, strict=True):
        assert ours_is.dtype == torchs_is.dtype
        bound = max(2 * (torchs_is.double() - should_be).norm(), 0.005 * should_be.norm())
        assert (ours_is.double() - should_be).norm() <= bound


@needs_amx
@pytest.mark.parametrize(
    ("sizes", "channels", "images"),
    [
        ((64, 4, 4), 64, 16),
        ((24, 4, 4), 128, 8),
        ((10, 4, 4), 512, 1),  # rows of 2 are no faster
        ((64, 5, 5), 64, 1),
        ((64, 8, 8), 256, 16),
        ((64, 9, 9), 256, 1),
        ((8, 4, 4), 64, 1),
    ],
)
def test_only_rows_that_are_faster_are_made(sizes, channels, images):
    batch, height, width = sizes
    ours, _ = pair(channels=channels)
    x = maps(batch, channels, height, width)
    assert images_in_a_row(ours, x) == images
    assert images_in_a_row(ours, x.contiguous()) == 1 or height == width == 1


@needs_amx
def test_a_fused_network_computes_narrow_maps_side_by_side():
    torch.manual_seed(0)
    model = cifarblocks.create_model("resnet_18", num_classes=10).eval()
    x = maps(16, 3, 32, 32)
    fused = cifarblocks.accelerate(cifarblocks.fuse(model)).bfloat16().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        y, expected = fused(x).float(), model(x.float())
    images = {
        packed.images
        for layer in fused.modules()
        if "_packing" in vars(layer)
        for packed in vars(layer)["_packing"].by_shape.values()
    }
    assert images == {1, 16}
    assert (y - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"padding_mode": "reflect"}, {"dilation": 2}, {"stride": 3}, {"kernel_size": 5}]
)
def test_other_convolutions_stay_torchs(options):
    conv = nn.Conv2d(64, 64, **{"kernel_size": 3, "padding": 1, **options})
    assert type(cifarblocks.accelerate(conv)) is nn.Conv2d
