import pytest
import torch
import torch.nn.functional as F
from networks import assert_drawn, on_meta
from references import convolution, layer_norm, randomise_by_fan_in
from test_gnconv import block, global_local
from tools import slow
from torch import Tensor, nn

import cifarblocks
import cifarblocks.models.convnext
import cifarblocks.models.hornet
from cifarblocks.blocks import GlobalLocalFilter, GnConv, LayerScale

# The whole network, from section 3 of the paper.


def patches(x: Tensor, conv: nn.Conv2d, size: int) -> Tensor:
    """Patches side by side, each a row of numbers for a linear layer."""
    assert conv.weight.shape[-2:] == (size, size)
    height, width = x.shape[2] // size, x.shape[3] // size
    x = x[:, :, : height * size, : width * size].unflatten(3, (width, size)).unflatten(2, (height, size))
    rows = x.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return F.linear(rows, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def hornet(x: Tensor, model: nn.Module, width: int, depths, patch_size: int, strides, filters) -> Tensor:
    x = layer_norm(patches(x, model.stem[0], patch_size), model.stem[1])
    plan = zip(model.stages, depths, (2, 3, 4, 5), strides, filters, strict=True)
    for place, (stage, depth, order, stride, filtered) in enumerate(plan):
        blocks = list(stage)
        if place:
            norm, conv = blocks.pop(0)
            x = patches(layer_norm(x, norm), conv, stride)
        assert (x.shape[1], len(blocks)) == (width * 2**place, depth)
        for each in blocks:
            x = block(x, each, order, filtered)
    norm, linear = model.head.after, model.head.classifier
    x = F.layer_norm(x.mean((2, 3)), x.shape[1:2], norm.weight, norm.bias, 1e-6)
    return F.linear(x, linear.weight, linear.bias)


LOCAL, GLOBAL = [convolution] * 4, [convolution] * 2 + [global_local] * 2


@pytest.mark.parametrize(
    ("name", "width", "depths", "patch_size", "strides", "filters", "size"),
    [
        slow("hornet_tiny", 64, (2, 3, 18, 2), 4, (1, 2, 2, 2), LOCAL, (37, 64)),
        slow("hornet_tiny_gf", 64, (2, 3, 18, 2), 4, (1, 2, 2, 2), GLOBAL, (64, 96)),
        ("hornet_tiny_gf", 64, (2, 3, 18, 2), 4, (1, 2, 2, 2), GLOBAL, (32, 64)),
        ("hornet_nano_cifar", 40, (2, 2, 6, 2), 2, (1, 2, 2, 1), LOCAL, (37, 32)),
        slow("hornet_tiny_cifar", 64, (2, 3, 18, 2), 2, (1, 2, 2, 1), LOCAL, (16, 16)),
    ],
)
@torch.no_grad()
def test_is_the_papers_network(name, width, depths, patch_size, strides, filters, size):
    model = cifarblocks.create_model(name, num_classes=7, image_size=size)
    model = randomise_by_fan_in(model.double()).eval()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = hornet(x, model, width, depths, patch_size, strides, filters)
    torch.testing.assert_close(model(x), expected, rtol=1e-8, atol=1e-8)


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
