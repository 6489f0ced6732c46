"""Published networks give ours their weights, and then both compute the same."""

import re
from functools import partial

import pytest
import timm
import torch
import torchvision
from references import randomise
from safetensors.torch import save_file
from timm.models._manipulate import adapt_input_conv
from timm.models.maxxvit import MaxxVit, model_cfgs
from torch import nn

import cifarblocks

PAPER_STRIDES = {"conv_stride_mode": "1x1", "conv_pool_type": "max", "transformer_pool_type": "max"}

# ours, its arguments, the source, theirs
PAIRS = [
    ("resnet_18", {"stem": "imagenet"}, "timm", lambda n: timm.create_model("resnet18", num_classes=n)),
    ("resnet_50", {"stem": "imagenet"}, "torchvision", lambda n: torchvision.models.resnet50(num_classes=n)),
    ("convnext_atto", {}, "timm", lambda n: timm.create_model("convnext_atto", num_classes=n)),
    ("convnext_tiny", {}, "torchvision", lambda n: torchvision.models.convnext_tiny(num_classes=n)),
    ("ghostnet_050", {}, "timm", lambda n: timm.create_model("ghostnet_050", num_classes=n)),
    ("resnest14d", {}, "timm", lambda n: timm.create_model("resnest14d", num_classes=n)),
    ("cspresnet50", {}, "timm", lambda n: timm.create_model("cspresnet50", num_classes=n)),
    (
        "coatnet_0",
        {"image_size": 64},
        "timm",
        lambda n: timm.create_model("coatnet_0_224", num_classes=n, img_size=64, **PAPER_STRIDES),
    ),
    (
        "mlp_mixer_s16",
        {"image_size": 64},
        "timm",
        lambda n: timm.create_model("mixer_s16_224", num_classes=n, img_size=64),
    ),
    (
        "vit_tiny_16",
        {"image_size": 64},
        "timm",
        lambda n: timm.create_model("vit_tiny_patch16_224", num_classes=n, img_size=64),
    ),
    (
        "vit_b_16",
        {"image_size": 64},
        "torchvision",
        lambda n: torchvision.models.vit_b_16(num_classes=n, image_size=64),
    ),
]


COATNET = {"img_size": 64, **PAPER_STRIDES}
# The same names in other sizes.
LARGER = [
    *[(f"convnext_{size}", {}, f"convnext_{size}", {}) for size in ("femto", "pico", "nano")],
    *[(f"coatnet_{size}", {"image_size": 64}, f"coatnet_{size}_224", COATNET) for size in (1, 2)],
    ("mlp_mixer_b16", {"image_size": 64}, "mixer_b16_224", {"img_size": 64}),
    ("vit_b_16", {"image_size": 64}, "vit_base_patch16_224", {"img_size": 64}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments", "timms", "theirs"), LARGER, ids=[name for name, *_ in LARGER])
def test_larger_ones_compute_the_same(name, arguments, timms, theirs):
    test_both_compute_the_same(name, arguments, "timm", lambda n: timm.create_model(timms, num_classes=n, **theirs))


def randomised(module: nn.Module) -> nn.Module:
    """Everything random, matrices by fan-in, so that signals keep their size through many layers."""
    randomise(module.double()).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim in (2, 4):
                parameter.div_(parameter[0].numel() ** 0.5)
    return module


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments", "source", "build"), PAIRS, ids=[f"{name}-{source}" for name, _, source, _ in PAIRS]
)
def test_both_compute_the_same(name, arguments, source, build):
    theirs = randomised(build(7))
    ours = cifarblocks.create_model(name, num_classes=7, **arguments).double().eval()
    cifarblocks.load_published(ours, theirs.state_dict(), source)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-8, atol=1e-8)


def small() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    state = torchvision.models.resnet18(num_classes=7).state_dict()
    return cifarblocks.create_model("resnet_18", num_classes=7, stem="imagenet"), dict(state)


def refused(model: nn.Module, state: object, message: str, source: str = "torchvision", **arguments: object) -> None:
    """Refused by that message, and nothing was loaded."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        cifarblocks.load_published(model, state, source, **arguments)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named():
    model, state = small()
    refused(
        model,
        {k: v for k, v in state.items() if k != "layer2.0.bn1.weight"},
        "state_dict lacks stages.1.0.norm1.weight",
    )
    refused(model, state | {"layer2.0.more": torch.zeros(1)}, "state_dict has layer2.0.more, which the model has not")
    misshapen = state | {"layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}
    refused(model, misshapen, "layer1.0.conv1.weight of shape (64, 64, 5, 5), the model has (64, 64, 3, 3)")
    strided = {"layer2.0.downsample.0.weight": torch.zeros(128, 64, 3, 3)}
    refused(model, state | strided, "layer2.0.downsample.0.weight of shape (128, 64, 3, 3), the model has (128, 64, 1")
    refused(model, state | {"a.relative_position_index": torch.zeros(1)}, "has a.relative_position_index, which")
    refused(model, {"model": state}, "expected only tensors in state_dict, but 'model' is a dict")
    refused(
        model, {"model.fc": torch.zeros(1)}, "state_dict has no tensor of this network under the names of torchvision"
    )
    refused(
        model,
        state,
        "source must be one of ['timm', 'torchvision', 'chenyaofo', 'kuangliu'], got 'keras'",
        source="keras",
    )


def test_a_classifier_of_another_size_is_kept_only_when_asked():
    _, state = small()
    model = cifarblocks.create_model("resnet_18", num_classes=5, stem="imagenet")
    refused(model, state, "new_classifier=True keeps the model's own")
    own = model.head.classifier.weight.clone()
    cifarblocks.load_published(model, state, "torchvision", new_classifier=True)
    assert torch.equal(model.head.classifier.weight, own)
    assert torch.equal(model.stem[0].weight, state["conv1.weight"])


def test_a_network_without_a_classifier_is_loaded_when_asked():
    _, state = small()
    model = cifarblocks.create_model("resnet_18", num_classes=0, stem="imagenet")
    refused(model, state, "state_dict has fc.weight and 1 more, which the model has not")
    cifarblocks.load_published(model, state, "torchvision", new_classifier=True)
    assert torch.equal(model.stages[3][1].conv2.weight, state["layer4.1.conv2.weight"])


def test_a_wrong_shape_in_relative_attention_is_named():
    build = partial(timm.create_model, "coatnet_0_224", num_classes=7, img_size=64)
    state = build().state_dict()
    model = cifarblocks.create_model("coatnet_0", num_classes=7, image_size=64)
    name = "stages.2.blocks.0.attn.qkv.weight"
    refused(model, state | {name: torch.zeros(100, 384, 1, 1)}, f"{name} of shape (100, 384, 1, 1)", "timm")
    table = "stages.2.blocks.0.attn.rel_pos.relative_position_bias_table"
    assert state[table].ndim == 2
    refused(model, state | {table: torch.zeros(15, 12)}, f"{table} of shape (15, 12)", "timm")


def test_positions_of_as_many_places_are_those_of_a_square():
    state = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64).state_dict()
    model = cifarblocks.create_model("vit_tiny_16", num_classes=7, image_size=(128, 32))  # 8·2 places, as 4·4
    cifarblocks.load_published(model, state, "timm")
    square = state["pos_embed"][0, 1:].T.reshape(1, 192, 4, 4)
    resized = torch.nn.functional.interpolate(square, (8, 2), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(model.stem[4].positions[1:], resized)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_are_read(suffix, tmp_path):
    model, state = small()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    cifarblocks.load_published(model, path, "torchvision")
    assert torch.equal(model.stages[3][1].conv2.weight, state["layer4.1.conv2.weight"])


def test_a_file_of_anything_else_is_not_unpickled(tmp_path):
    model, _ = small()
    path = tmp_path / "weights.pth"
    torch.save({"model": nn.Linear(1, 1)}, path)
    refused(model, path, f"{path} cannot be used as weights of torchvision: Weights only load failed")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    model, _ = small()
    path = tmp_path / name
    refused(model, path, f"{path} cannot be used as weights of torchvision: No such file or directory")
    path.write_bytes(b"not weights")
    refused(model, str(path), f"{path} cannot be used as weights of torchvision: ")
    if path.suffix == ".pth":
        torch.save([1], path)
        refused(model, path, f"{path} must hold a state dict, got list")


def test_positions_of_another_image_size_are_resized():
    state = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64).state_dict()
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    ramps = torch.stack([y, x], -1).reshape(1, 16, 2)
    state["pos_embed"] = torch.cat([torch.full((1, 1, 192), 9.0), ramps.repeat(1, 1, 96)], 1)
    model = cifarblocks.create_model("vit_tiny_16", num_classes=7, image_size=(128, 64))
    cifarblocks.load_published(model, state, "timm")
    positions = model.stem[4].positions
    assert torch.equal(positions[0], torch.full((192,), 9.0))
    grid = positions[1:, :2].reshape(8, 4, 2)
    torch.testing.assert_close(grid[..., 1], torch.arange(4.0).expand(8, 4), rtol=1e-5, atol=1e-5)
    assert (grid[..., 0].diff(dim=0) > 0).all()  # downwards it still grows
    assert not grid[..., 0].diff(dim=1).abs().max() > 1e-5


def test_relative_tables_of_another_image_size_are_resized():
    theirs = MaxxVit(model_cfgs["coatnet_0"], img_size=64, num_classes=7)
    state = theirs.state_dict()
    name = "stages.2.blocks.0.attn.rel_pos.relative_position_bias_table"
    heads = state[name].shape[1]
    state[name] = torch.arange(heads).expand(49, heads).float()  # the same for all places: it stays so
    model = cifarblocks.create_model("coatnet_0", num_classes=7, image_size=(96, 64))
    cifarblocks.load_published(model, state, "timm")
    bias = model.stages[2][0].attention.relative_bias
    assert bias.shape == (heads, 11, 7)
    torch.testing.assert_close(bias, torch.arange(heads).float().view(-1, 1, 1).expand(-1, 11, 7))


class Block(nn.Module):
    """A residual block as chenyaofo ("downsample") and kuangliu ("shortcut") name its parts."""

    def __init__(self, before, width, stride, shortcut, kernels, expansion):
        super().__init__()
        channels = [before, *[width] * (len(kernels) - 1), width * expansion]
        strided = kernels.index(3)
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(
                channels[i], channels[i + 1], kernel, stride if i == strided else 1, padding=kernel // 2, bias=False
            )
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.depth, self.projection = len(kernels), None
        if stride > 1 or before != channels[-1]:
            self.projection = shortcut
            conv = nn.Conv2d(before, channels[-1], 1, stride, bias=False)
            self.add_module(shortcut, nn.Sequential(conv, nn.BatchNorm2d(channels[-1])))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.depth else y
        return (y + (getattr(self, self.projection)(x) if self.projection else x)).relu()


class Layout(nn.Module):
    """A ResNet for CIFAR as chenyaofo and kuangliu name its parts."""

    def __init__(self, widths, depths, kernels, expansion, shortcut, last, classes=7):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            layer = nn.Sequential()
            for place in range(depth):
                stride = 2 if i > 0 and place == 0 else 1
                layer.append(Block(before, width, stride, shortcut, kernels, expansion))
                before = width * expansion
            self.add_module(f"layer{i + 1}", layer)
        self.layers, self.last = len(widths), last
        self.add_module(last, nn.Linear(before, classes))

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        for i in range(1, self.layers + 1):
            x = getattr(self, f"layer{i}")(x)
        return getattr(self, self.last)(x.mean((2, 3)))


CHENYAOFO = {"widths": (16, 32, 64), "kernels": (3, 3), "expansion": 1, "shortcut": "downsample", "last": "fc"}
KUANGLIU = {"widths": (64, 128, 256, 512), "shortcut": "shortcut", "last": "linear"}
LAYOUTS = [
    ("resnet_20", "chenyaofo", lambda: Layout(depths=(3, 3, 3), **CHENYAOFO)),
    ("resnet_56", "chenyaofo", lambda: Layout(depths=(9, 9, 9), **CHENYAOFO)),
    ("resnet_18", "kuangliu", lambda: Layout(depths=(2, 2, 2, 2), kernels=(3, 3), expansion=1, **KUANGLIU)),
    ("resnet_50", "kuangliu", lambda: Layout(depths=(3, 4, 6, 3), kernels=(1, 3, 1), expansion=4, **KUANGLIU)),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "source", "build"), LAYOUTS, ids=[f"{name}-{source}" for name, source, _ in LAYOUTS])
def test_layouts_of_cifar_repositories_compute_the_same(name, source, build):
    theirs = randomised(build())
    ours = cifarblocks.create_model(name, num_classes=7).double().eval()
    cifarblocks.load_published(ours, theirs.state_dict(), source)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off_where_every_name_has_them(prefix):
    model, state = small()
    cifarblocks.load_published(model, {prefix + name: value for name, value in state.items()}, "torchvision")
    assert torch.equal(model.stages[3][1].conv2.weight, state["layer4.1.conv2.weight"])
    some = {name if name == "fc.bias" else prefix + name: value for name, value in state.items()}
    refused(model, some, "state_dict lacks stem.0.weight")


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    ("name", "arguments", "timms"),
    [("resnet_18", {"stem": "imagenet"}, "resnet18"), ("resnest14d", {}, "resnest14d")],
)
def test_the_stem_takes_other_channels_as_timms_does(name, arguments, timms, channels):
    theirs = timm.create_model(timms, num_classes=7).eval()
    ours = cifarblocks.create_model(name, num_classes=7, in_channels=channels, **arguments).eval()
    state = theirs.state_dict()
    if channels != 3:
        refused(ours, state, f"{channels}, ", "timm")
        refused(ours, state, "; adapt_channels=True adapts the channels", "timm")
    cifarblocks.load_published(ours, state, "timm", adapt_channels=True)
    first = next(name for name, value in state.items() if value.ndim == 4)
    expected = adapt_input_conv(channels, state[first].clone())
    torch.testing.assert_close(next(ours.stem.parameters()), expected, rtol=1e-6, atol=1e-7)
    if channels == 1:  # a grey image is what three equal channels are
        x = torch.randn(2, 1, 64, 64)
        torch.testing.assert_close(ours(x), theirs(x.expand(2, 3, 64, 64)), rtol=1e-4, atol=1e-4)


def test_patches_take_another_size_and_other_channels_at_once():
    state = timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict()
    model = cifarblocks.create_model("vit_tiny_cifar", num_classes=7, in_channels=4)
    cifarblocks.load_published(model, state, "timm", adapt_channels=True)
    expected = adapt_input_conv(4, state["patch_embed.proj.weight"]).sum((2, 3))
    torch.testing.assert_close(model.stem[1].weight.sum((2, 3)), expected, rtol=1e-4, atol=1e-4)
