import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from networks import assert_drawn, on_meta
from references import batch_norm, convolution, gelu, large_kernel_block, layer_norm, randomise_by_fan_in
from test_msca import unit
from tools import slow
from torch import Tensor, nn

import cifarblocks
import cifarblocks.models.mscan
from cifarblocks.blocks import LayerScale

# The whole network, from the paper's figure 2 and table 2.


@torch.no_grad()
def assert_equals_plan(name: str, stem: Callable[[Tensor, nn.Module], Tensor], unit, eps: float, strides) -> None:
    """Build the size T: the skeleton that SegNeXt and LSKNet share."""
    model = randomise_by_fan_in(cifarblocks.create_model(name, num_classes=7).double()).eval()
    images = torch.randn(2, 3, 45, 33, dtype=torch.float64)
    x = stem(images, model.stem)
    plan = zip(model.stages, (32, 64, 160, 256), (3, 3, 5, 2), strides, strict=True)
    for place, (stage, width, depth, stride) in enumerate(plan):
        *parts, last = stage
        if place:
            x = conv_norm(x, parts.pop(0), stride)
        assert (x.shape[1], len(parts)) == (width, depth)
        for block in parts:
            x = large_kernel_block(x, block, unit, False)
        x = layer_norm(x, last, eps)
    linear = model.head.classifier
    expected = F.linear(x.mean((2, 3)), linear.weight, linear.bias)
    torch.testing.assert_close(model(images), expected, rtol=1e-8, atol=1e-8)


def conv_norm(x: Tensor, layers: nn.Sequential, stride: int) -> Tensor:
    return batch_norm(convolution(x, layers[0], stride), layers[1], False)


@pytest.mark.parametrize(
    ("name", "stem_strides", "strides"),
    [slow("segnext_mscan_tiny", (2, 2), (1, 2, 2, 2)), ("segnext_mscan_tiny_cifar", (1, 2), (1, 2, 2, 1))],
)
def test_is_the_papers_network(name, stem_strides, strides):
    def stem(x: Tensor, layers: nn.Module) -> Tensor:
        x = gelu(conv_norm(x, layers[0], stem_strides[0]))
        assert x.shape[1] == 16
        return conv_norm(x, layers[2], stem_strides[1])

    assert_equals_plan(name, stem, unit, 1e-5, strides)


def test_each_size_has_the_papers_widths_depths_and_ratios():
    for name, widths, depths in [
        ("segnext_mscan_tiny", [32, 64, 160, 256], [3, 3, 5, 2]),
        ("segnext_mscan_small", [64, 128, 320, 512], [2, 2, 4, 2]),
        ("segnext_mscan_base", [64, 128, 320, 512], [3, 3, 12, 3]),
    ]:
        model = on_meta(name)
        assert [info.channels for info in model.feature_info] == widths
        blocks = [[block for block in stage if hasattr(block, "mlp")] for stage in model.stages]
        assert [len(stage) for stage in blocks] == depths
        ratios = [{block.mlp[0].out_channels // block.mlp[0].in_channels for block in stage} for stage in blocks]
        assert ratios == [{8}, {8}, {4}, {4}]


def test_maps_are_as_large_as_the_plan_says():
    for name, sizes in [("segnext_mscan_tiny", [8, 4, 2, 1]), ("segnext_mscan_tiny_cifar", [16, 8, 4, 4])]:
        maps = on_meta(name).feature_maps(torch.empty(2, 3, 32, 32, device="meta"))
        assert [feature_map.shape[-1] for feature_map in maps] == sizes


def test_weights_are_drawn_as_the_authors_do():
    model = cifarblocks.create_model("segnext_mscan_tiny_cifar")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            expected = math.sqrt(2 * module.groups / (height * width * module.out_channels))
            if module.weight.numel() > 4000:
                assert_drawn(module.weight, expected)
            assert not module.bias.any()
        elif isinstance(module, LayerScale):
            assert (module.gamma == torch.tensor(0.01)).all()
    assert_drawn(model.head.classifier.weight, 0.02)
    assert not model.head.classifier.bias.any()
