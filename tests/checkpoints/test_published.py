"""Published networks give ours their weights, and then both compute the same."""

import pytest
import timm
import torch
import torchvision
from networks import assert_equals_published
from refusals import refuses
from safetensors.torch import save_file
from timm.models._manipulate import adapt_input_conv
from tools import slow
from torch import nn

import cifarblocks

COATNET = {
    "img_size": 64,
    "conv_stride_mode": "1x1",
    "conv_pool_type": "max",
    "transformer_pool_type": "max",
}
# Ours, its arguments, timm's and its arguments; the others are compared in tests/models, by the same function.
PAIRS = [
    ("resnet_18", {"stem": "imagenet"}, "resnet18", {}),
    *[slow(f"convnext_{size}", {}, f"convnext_{size}", {}) for size in ("femto", "pico", "nano")],
    *[slow(f"coatnet_{size}", {"image_size": 64}, f"coatnet_{size}_224", COATNET) for size in (1, 2)],
    slow("mlp_mixer_b16", {"image_size": 64}, "mixer_b16_224", {"img_size": 64}),
    slow("vit_b_16", {"image_size": 64}, "vit_base_patch16_224", {"img_size": 64}),
]


@pytest.mark.parametrize(("name", "arguments", "timms", "theirs"), PAIRS)
def test_both_compute_the_same(name, arguments, timms, theirs):
    theirs = timm.create_model(timms, num_classes=7, **theirs)
    assert_equals_published(name, theirs, "timm", (64, 64), **arguments)


@pytest.mark.slow
def test_torchvisions_large_vit_computes_the_same():
    theirs = torchvision.models.vit_b_16(num_classes=7, image_size=64)
    assert_equals_published("vit_b_16", theirs, "torchvision", (64, 64), image_size=64)


def small() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Ours, and the weights of another library: of the names of torchvision, and quick to make."""
    return cifarblocks.create_model("resnet_20", num_classes=7), dict(
        Layout(depths=(3, 3, 3), **CHENYAOFO).state_dict()
    )


def assert_refused(
    model: nn.Module, state: object, *named: object, source: str = "chenyaofo", **arguments: object
) -> None:
    """Expect a message with these names, and an unchanged model."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with refuses(ValueError, *named):
        cifarblocks.load_published(model, state, source, **arguments)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named():
    model, state = small()
    missing = {k: v for k, v in state.items() if k != "layer2.0.bn1.weight"}
    assert_refused(model, missing, "stages.1.0.norm1.weight")
    assert_refused(model, state | {"layer2.0.more": torch.zeros(1)}, "layer2.0.more")
    assert_refused(model, state | {"a.relative_position_index": torch.zeros(1)}, "a.relative_position_index")
    for name, ours, theirs in (
        ("layer1.0.conv1.weight", (16, 16, 3, 3), (16, 16, 5, 5)),
        ("layer2.0.downsample.0.weight", (32, 16, 1, 1), (32, 16, 3, 3)),
    ):
        assert_refused(model, state | {name: torch.zeros(theirs)}, name, ours, theirs)
    assert_refused(model, {"model": state}, "model", "dict")
    assert_refused(model, {"model.fc": torch.zeros(1)}, "state_dict", "chenyaofo")
    assert_refused(model, state, "source", "timm", "torchvision", "chenyaofo", "kuangliu", "keras", source="keras")


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.fill_(float("nan")),
        lambda value: value.index_fill(0, torch.tensor(0), float("inf")),
        lambda value: value.to(torch.complex64),
        lambda value: value.to(torch.int32),
        lambda value: value.to(torch.float8_e4m3fn),
        lambda value: value.bool(),
        lambda value: value.to_sparse(),
        lambda value: value.to("meta"),
        lambda value: value[..., :0],
    ],
)
@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_mean"])
def test_numbers_that_no_model_has_are_refused_by_their_name(name, change):
    model, state = small()
    assert_refused(model, state | {name: change(state[name].clone())}, name, adapt_channels=True)


def test_a_count_of_batches_is_an_integer():
    model, state = small()
    name = "bn1.num_batches_tracked"
    assert_refused(model, state | {name: torch.tensor(1.5)}, name, torch.float32, torch.int64)


def test_a_tensor_that_is_given_twice_is_named():
    model = cifarblocks.create_model("resnet_18", num_classes=7)
    state = Layout(depths=(2, 2, 2, 2), kernels=(3, 3), expansion=1, **KUANGLIU).state_dict()
    names = "layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight"
    assert_refused(model, state | {names[1]: state[names[0]]}, *names, source="kuangliu")


@pytest.mark.parametrize("given", [None, 3, [1], (), {1, 2}, b"weights.pth", torch.zeros(2), nn.Linear(1, 1)])
def test_what_is_neither_a_state_dict_nor_a_file_is_refused(given):
    model, _ = small()
    with refuses(TypeError, "state_dict", type(given).__name__):
        cifarblocks.load_published(model, given, "chenyaofo")


def test_other_arguments_that_cannot_be_are_named(tmp_path):
    model, state = small()
    assert_refused(model, {}, "state_dict")
    assert_refused(model, state | {3: torch.zeros(1)}, "state_dict", "int")
    assert_refused(model, tmp_path, tmp_path, "folder")
    for source in (None, ["timm"], 3, ""):
        assert_refused(model, state, "source", repr(source), source=source)
    with refuses(TypeError, "model", "str"):
        cifarblocks.load_published("resnet_20", state, "chenyaofo")


def test_a_classifier_of_another_size_is_kept_only_when_asked():
    _, state = small()
    model = cifarblocks.create_model("resnet_20", num_classes=5)
    assert_refused(model, state, "new_classifier")
    own = model.head.classifier.weight.clone()
    cifarblocks.load_published(model, state, "chenyaofo", new_classifier=True)
    assert torch.equal(model.head.classifier.weight, own)
    assert torch.equal(model.stem[0].weight, state["conv1.weight"])


def test_a_network_without_a_classifier_is_loaded_when_asked():
    _, state = small()
    model = cifarblocks.create_model("resnet_20", num_classes=0)
    assert_refused(model, state, "fc.weight")
    cifarblocks.load_published(model, state, "chenyaofo", new_classifier=True)
    assert torch.equal(model.stages[2][1].conv2.weight, state["layer3.1.conv2.weight"])


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
    cifarblocks.load_published(model, path, "chenyaofo")
    assert torch.equal(model.stages[2][1].conv2.weight, state["layer3.1.conv2.weight"])


def test_a_model_without_memory_is_refused():
    model, state = small()
    with refuses(ValueError, "model", "meta"):
        cifarblocks.load_published(model.to("meta"), state, "chenyaofo")


def test_a_file_of_anything_else_is_not_unpickled(tmp_path):
    model, _ = small()
    path = tmp_path / "weights.pth"
    torch.save({"model": nn.Linear(1, 1)}, path)
    assert_refused(model, path, path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    model, _ = small()
    path = tmp_path / name
    assert_refused(model, path, path)
    path.write_bytes(b"not weights")
    assert_refused(model, str(path), path)
    if path.suffix == ".pth":
        torch.save([1], path)
        assert_refused(model, path, path, "list")


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


def test_relative_attention_of_another_image_size_is_resized_and_of_a_wrong_shape_refused():
    state = timm.create_model("coatnet_0_224", num_classes=7, **COATNET).state_dict()
    table = "stages.2.blocks.0.attn.rel_pos.relative_position_bias_table"
    heads = state[table].shape[1]
    state[table] = torch.arange(heads).expand(49, heads).float()  # the same for all places: it stays so
    model = cifarblocks.create_model("coatnet_0", num_classes=7, image_size=(96, 64))
    cifarblocks.load_published(model, state, "timm")
    bias = model.stages[2][0].attention.relative_bias
    assert bias.shape == (heads, 11, 7)
    torch.testing.assert_close(bias, torch.arange(heads).float().view(-1, 1, 1).expand(-1, 11, 7))
    for name, shape in ((table, (15, 12)), ("stages.2.blocks.0.attn.qkv.weight", (100, 384, 1, 1))):
        assert_refused(model, state | {name: torch.zeros(shape)}, name, shape, source="timm")


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
    slow("resnet_56", "chenyaofo", lambda: Layout(depths=(9, 9, 9), **CHENYAOFO)),
    slow("resnet_18", "kuangliu", lambda: Layout(depths=(2, 2, 2, 2), kernels=(3, 3), expansion=1, **KUANGLIU)),
    ("resnet_50", "kuangliu", lambda: Layout(depths=(3, 4, 6, 3), kernels=(1, 3, 1), expansion=4, **KUANGLIU)),
]


@pytest.mark.parametrize(("name", "source", "build"), LAYOUTS)
def test_layouts_of_cifar_repositories_compute_the_same(name, source, build):
    assert_equals_published(name, build(), source, (16, 16))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off_where_every_name_has_them(prefix):
    model, state = small()
    cifarblocks.load_published(model, {prefix + name: value for name, value in state.items()}, "chenyaofo")
    assert torch.equal(model.stages[2][1].conv2.weight, state["layer3.1.conv2.weight"])
    some = {name if name == "fc.bias" else prefix + name: value for name, value in state.items()}
    assert_refused(model, some, "stem.0.weight")


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments", "timms", "channels"),
    [
        *[("resnet_18", {"stem": "imagenet"}, "resnet18", channels) for channels in (1, 3, 4)],
        *[("resnest14d", {}, "resnest14d", channels) for channels in (2, 7)],
    ],
)
def test_the_stem_takes_other_channels_as_timms_does(name, arguments, timms, channels):
    theirs = timm.create_model(timms, num_classes=7).eval()
    ours = cifarblocks.create_model(name, num_classes=7, in_channels=channels, **arguments).eval()
    state = theirs.state_dict()
    if channels != 3:
        assert_refused(ours, state, channels, "adapt_channels", source="timm")
    cifarblocks.load_published(ours, state, "timm", adapt_channels=True)
    first = next(name for name, value in state.items() if value.ndim == 4)
    expected = adapt_input_conv(channels, state[first].clone())
    torch.testing.assert_close(next(ours.stem.parameters()), expected, rtol=1e-6, atol=1e-7)
    if channels == 1:  # a grey image is what three equal channels are
        x = torch.randn(2, 1, 64, 64)
        torch.testing.assert_close(ours(x), theirs(x.expand(2, 3, 64, 64)), rtol=1e-4, atol=1e-4)


def test_the_stem_of_another_image_size_is_answered_with_the_argument():
    small_stem = Layout(depths=(2, 2, 2, 2), kernels=(3, 3), expansion=1, **KUANGLIU).state_dict()
    for source, state, stem, right in (
        ("timm", timm.create_model("resnet18").state_dict(), "cifar", "imagenet"),
        ("kuangliu", small_stem, "imagenet", "cifar"),
    ):
        model = cifarblocks.create_model("resnet_18", stem=stem)
        assert_refused(model, state, "conv1.weight", f"stem={right!r}", source=source, new_classifier=True)


def test_patches_take_another_size_and_other_channels_at_once():
    state = timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict()
    model = cifarblocks.create_model("vit_tiny_cifar", num_classes=7, in_channels=4)
    cifarblocks.load_published(model, state, "timm", adapt_channels=True)
    expected = adapt_input_conv(4, state["patch_embed.proj.weight"]).sum((2, 3))
    torch.testing.assert_close(model.stem[1].weight.sum((2, 3)), expected, rtol=1e-4, atol=1e-4)
