import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from networks import assert_drawn, assert_equals_published, on_meta
from references import randomise
from torch import Tensor, nn

import cifarblocks
import cifarblocks.models.convnext
from cifarblocks.blocks import ConvNeXtBlock, DropPath, LayerScale

TINY = {"timm": timm.create_model, "torchvision": torchvision.models.get_model}


def test_equals_timm():
    assert_equals_published("convnext_atto", timm.create_model("convnext_atto", num_classes=7), "timm", (64, 96))


@pytest.mark.slow
@pytest.mark.parametrize("source", TINY)
def test_tiny_equals_the_libraries(source):
    assert_equals_published("convnext_tiny", TINY[source]("convnext_tiny", num_classes=7), source, (64, 96))


@pytest.mark.parametrize(
    ("size", "source"),
    [("femto", "timm"), ("pico", "timm"), ("nano", "timm"), ("tiny", "timm"), ("tiny", "torchvision")],
)
def test_every_tensor_has_its_place(size, source):
    with torch.device("meta"):
        theirs = TINY[source](f"convnext_{size}", num_classes=7)
    state = {name: torch.zeros(tensor.shape) for name, tensor in theirs.state_dict().items()}
    ours = on_meta(f"convnext_{size}", num_classes=7).to_empty(device="cpu")
    cifarblocks.load_published(ours, state, source)  # it raises if one is missing, left over or of another shape
    assert not any(tensor.any() for tensor in ours.state_dict().values())


@pytest.mark.parametrize("size", ["atto", "tiny"])
def test_small_images_take_the_same_blocks_and_smaller_strides(size):
    paper, small = on_meta(f"convnext_{size}"), on_meta(f"convnext_{size}_cifar")
    for ours, theirs in zip(small.stages, paper.stages, strict=True):
        assert [str(block) for block in ours if isinstance(block, ConvNeXtBlock)] == [
            str(block) for block in theirs if isinstance(block, ConvNeXtBlock)
        ]
    assert [info.stride for info in paper.feature_info] == [4, 8, 16, 32]
    assert [info.stride for info in small.feature_info] == [2, 4, 8, 8]
    assert [small.stem[0].kernel_size[0], *[stage[0][1].kernel_size[0] for stage in small.stages[1:]]] == [2, 2, 2, 1]
    assert [m.shape[-1] for m in small.feature_maps(torch.empty(1, 3, 32, 32, device="meta"))] == [16, 8, 4, 4]


def test_weights_are_drawn_as_the_paper_does():
    model = cifarblocks.create_model("convnext_atto_cifar")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.weight.numel() > 4000:
                assert_drawn(module.weight, 0.02)
            assert not module.bias.any()
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
        elif isinstance(module, LayerScale):
            assert (module.gamma == torch.tensor(1e-6)).all()


@pytest.mark.parametrize("name", ["convnext_atto_cifar", "hornet_nano_cifar"])
def test_every_branch_begins_with_the_layer_scale_that_is_given(name):
    model = cifarblocks.create_model(name, layer_scale=0.25)
    scales = [module.gamma for module in model.modules() if isinstance(module, LayerScale)]
    assert len(scales) == {"convnext_atto_cifar": 12, "hornet_nano_cifar": 24}[name]
    assert all((scale == 0.25).all() for scale in scales)


# improved_resnet20_convnext: the layout written out


def conv_norm(x: Tensor, w: dict[str, Tensor], name: str, stride: int = 1, relu: bool = False) -> Tensor:
    kernel = w[f"{name}.0.weight"]
    padding, groups = kernel.shape[-1] // 2, x.shape[1] // kernel.shape[1]
    x = F.conv2d(x, kernel, stride=stride, padding=padding, groups=groups)
    norm = [w[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    x = F.batch_norm(x, *norm, eps=1e-5)
    return x.relu() if relu else x


def improved_resnet20(x: Tensor, w: dict[str, Tensor], kernel_size: int, dense: bool, inverted: bool) -> Tensor:
    w = {name.replace("shortcut.conv", "shortcut.0").replace("shortcut.norm", "shortcut.1"): v for name, v in w.items()}
    x = conv_norm(x, w, "stem", relu=True)
    width = 16
    for stage, out in enumerate((16, 32, 64)):
        for place in range(3):
            name, stride = f"stages.{stage}.{place}", 2 if stage and not place else 1
            y, hidden = x, width
            if inverted:
                hidden = 4 * width
                y = conv_norm(y, w, f"{name}.expand", relu=True)
            assert y.shape[1] == hidden
            kernel = (hidden, hidden if dense else 1, kernel_size, kernel_size)
            assert w[f"{name}.convolution.0.weight"].shape == kernel
            y = conv_norm(y, w, f"{name}.convolution", stride, relu=True)
            y = conv_norm(y, w, f"{name}.project")
            if out != width:
                x = conv_norm(x, w, f"{name}.shortcut", stride)
            x, width = (x + y).relu(), out
    return F.linear(x.mean((2, 3)), w["head.classifier.weight"], w["head.classifier.bias"])


@pytest.mark.parametrize(
    ("arguments", "kernel_size", "dense", "inverted"),
    [
        ({}, 7, False, True),
        ({"convolution": "dense_3x3"}, 3, True, True),
        ({"expansion": 1}, 7, False, False),
        ({"expansion": 1, "convolution": "dense_3x3"}, 3, True, False),
    ],
)
def test_the_improved_resnet_is_its_layout(arguments, kernel_size, dense, inverted):
    model = randomise(cifarblocks.create_model("improved_resnet20_convnext", num_classes=7, **arguments).double())
    x = torch.randn(2, 3, 17, 12, dtype=torch.float64)
    expected = improved_resnet20(x, model.state_dict(), kernel_size, dense, inverted)
    torch.testing.assert_close(model.eval()(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("arguments", "last"), [({}, 0.05), ({"drop_path": 0.0}, 0.0)])
def test_the_improved_resnet_drops_paths_unless_told_otherwise(arguments, last):
    model = on_meta("improved_resnet20_convnext", **arguments)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([last * i / 8 for i in range(9)])
