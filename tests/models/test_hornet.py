import pytest
import torch
import torch.nn.functional as F
from networks import assert_drawn, on_meta
from test_mscan import Weights, conv, layer_norm, random_model
from tools import slow
from torch import Tensor, nn

import cifarblocks
import cifarblocks.models.convnext
import cifarblocks.models.hornet
from cifarblocks.blocks import GlobalLocalFilter, GnConv, LayerScale

# The whole network in torch functions, from section 3 of the paper.


def patches(x: Tensor, w: Weights, name: str, size: int) -> Tensor:
    """Patches side by side, each a row of numbers for a linear layer."""
    b, c, height, width = x.shape
    h, w_out = height // size, width // size
    kernel = w[f"{name}.weight"]
    assert kernel.shape[-2:] == (size, size)
    rows = x[:, :, : h * size, : w_out * size].reshape(b, c, h, size, w_out, size).permute(0, 2, 4, 1, 3, 5)
    return F.linear(rows.flatten(3), kernel.flatten(1), w[f"{name}.bias"]).permute(0, 3, 1, 2)


def global_filter(x: Tensor, w: Weights, name: str) -> Tensor:
    """Both transforms over the whole plane: the half spectrum is completed by its mirror image."""
    x = layer_norm(x, w, f"{name}.norm_in", 1e-6)
    half = x.shape[1] // 2
    near = F.conv2d(x[:, :half], w[f"{name}.local.weight"], padding=1, groups=half)
    height, width = x.shape[-2:]
    kernel = torch.view_as_complex(w[f"{name}.spectrum"].movedim(0, -1).contiguous())
    assert kernel.shape == (half, height, width // 2 + 1)
    kernel = torch.fft.irfft2(kernel, s=(height, width))  # a circular convolution by a map of the size of the input
    far = torch.zeros_like(x[:, half:])
    for dy in range(height):
        for dx in range(width):
            far = far + kernel[:, dy, dx].view(-1, 1, 1) * x[:, half:].roll((dy, dx), (2, 3))
    return layer_norm(torch.stack([near, far], 2).flatten(1, 2), w, f"{name}.norm_out", 1e-6)


def gnconv(x: Tensor, w: Weights, name: str, order: int, filtered) -> Tensor:
    channels = x.shape[1]
    widths = [channels // 2 ** (order - 1 - k) for k in range(order)]
    z = conv(x, w, f"{name}.expand")
    assert z.shape[1] == 2 * channels == widths[0] + sum(widths)
    gates = filtered(z[:, widths[0] :], w, f"{name}.filter")
    p = z[:, : widths[0]] * gates[:, : widths[0]] / 3
    start = widths[0]
    for k in range(1, order):
        gate = gates[:, start : start + widths[k]] / 3  # of all gates at once in the code, of each in the paper
        p = conv(p, w, f"{name}.steps.{k - 1}") * gate
        start += widths[k]
    return conv(p, w, f"{name}.project")


def block(x: Tensor, w: Weights, name: str, order: int, filtered) -> Tensor:
    z = gnconv(layer_norm(x, w, f"{name}.gnconv_norm", 1e-6), w, f"{name}.gnconv", order, filtered)
    x = x + w[f"{name}.gnconv_scale.gamma"].view(-1, 1, 1) * z
    z = F.gelu(conv(layer_norm(x, w, f"{name}.mlp_norm", 1e-6), w, f"{name}.mlp.0"))
    assert z.shape[1] == 4 * x.shape[1]
    return x + w[f"{name}.mlp_scale.gamma"].view(-1, 1, 1) * conv(z, w, f"{name}.mlp.2")


def hornet(x: Tensor, w: Weights, width: int, depths, patch_size: int, strides, filters) -> Tensor:
    x = layer_norm(patches(x, w, "stem.0", patch_size), w, "stem.1", 1e-6)
    plan = zip(depths, (2, 3, 4, 5), strides, filters, strict=True)
    for stage, (depth, order, stride, filtered) in enumerate(plan):
        first = 0
        if stage:
            x = patches(layer_norm(x, w, f"stages.{stage}.0.0", 1e-6), w, f"stages.{stage}.0.1", stride)
            first = 1
        assert x.shape[1] == width * 2**stage
        for place in range(first, first + depth):
            x = block(x, w, f"stages.{stage}.{place}", order, filtered)
    x = F.layer_norm(x.mean((2, 3)), x.shape[1:2], w["head.after.weight"], w["head.after.bias"], 1e-6)
    return F.linear(x, w["head.classifier.weight"], w["head.classifier.bias"])


@pytest.mark.parametrize(
    ("name", "width", "depths", "patch_size", "strides", "filters", "size"),
    [
        slow("hornet_tiny", 64, (2, 3, 18, 2), 4, (1, 2, 2, 2), [conv] * 4, (37, 64)),
        ("hornet_tiny_gf", 64, (2, 3, 18, 2), 4, (1, 2, 2, 2), [conv, conv, global_filter, global_filter], (64, 32)),
        ("hornet_nano_cifar", 40, (2, 2, 6, 2), 2, (1, 2, 2, 1), [conv] * 4, (37, 32)),
        pytest.param(
            "hornet_tiny_cifar", 64, (2, 3, 18, 2), 2, (1, 2, 2, 1), [conv] * 4, (16, 16), marks=pytest.mark.slow
        ),
    ],
)
def test_is_the_papers_network(name, width, depths, patch_size, strides, filters, size):
    model = random_model(name, image_size=size)
    weights = Weights(model)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = hornet(x, weights, width, depths, patch_size, strides, filters)
        torch.testing.assert_close(model(x), expected, rtol=1e-8, atol=1e-8)
    assert weights.used == set(weights)


@pytest.mark.parametrize("name", ["hornet_tiny", "hornet_small", "hornet_tiny_gf", "hornet_small_gf"])
def test_orders_and_filters_are_those_of_the_paper(name):
    model = on_meta(name)
    for stage, order in zip(model.stages, (2, 3, 4, 5), strict=True):
        convs = [module for module in stage.modules() if isinstance(module, GnConv)]
        assert {len(module.widths) for module in convs} == {order}
        assert {isinstance(module.filter, GlobalLocalFilter) for module in convs} == {"gf" in name and order > 3}


@pytest.mark.parametrize(
    ("arguments", "spectra"),
    [
        ({}, {(14, 8), (7, 4)}),
        ({"image_size": (64, 96)}, {(4, 4), (2, 2)}),
        ({"image_size": 32}, {(2, 2), (1, 1)}),
    ],
)
def test_spectra_are_those_of_the_maps(arguments, spectra):
    model = on_meta("hornet_tiny_gf", **arguments)
    sizes = {tuple(m.spectrum.shape[-2:]) for m in model.modules() if isinstance(m, GlobalLocalFilter)}
    assert sizes == spectra


def test_global_filters_take_images_of_another_size():
    model = cifarblocks.create_model("hornet_tiny_gf", image_size=64).eval()
    for size in [(64, 64), (32, 70)]:
        assert model(torch.randn(1, 3, *size)).shape == (1, 100)


def test_small_images_take_the_blocks_of_hornet_tiny_and_smaller_strides():
    paper, small = on_meta("hornet_tiny"), on_meta("hornet_tiny_cifar")
    for ours, theirs in zip(small.stages, paper.stages, strict=True):
        assert [str(block) for block in ours if hasattr(block, "gnconv")] == [
            str(block) for block in theirs if hasattr(block, "gnconv")
        ]
    assert [m.shape[-1] for m in small.feature_maps(torch.empty(1, 3, 32, 32, device="meta"))] == [16, 8, 4, 4]


def test_nano_has_the_plan_of_convnext_atto():
    ours, theirs = on_meta("hornet_nano_cifar"), on_meta("convnext_atto_cifar")
    assert ours.feature_info == theirs.feature_info
    assert [len(stage) for stage in ours.stages] == [len(stage) for stage in theirs.stages]
    assert sum(p.numel() for p in ours.parameters()) < 5_000_000


def test_weights_are_drawn_as_the_authors_do():
    model, spectra = cifarblocks.create_model("hornet_tiny_gf", image_size=32), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.weight.numel() > 4000:
                assert_drawn(module.weight, 0.02)
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, LayerScale):
            assert (module.gamma == torch.tensor(1e-6)).all()
        elif isinstance(module, GlobalLocalFilter):
            spectra.append(module.spectrum.flatten())
    assert_drawn(torch.cat(spectra), 0.02)
