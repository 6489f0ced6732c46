"""Networks of timm and torchvision give ours their weights, and then both compute the same."""

import re
from functools import partial

import pytest
import timm
import torch
import torchvision
from references import randomise
from safetensors.torch import save_file
from timm.models.maxxvit import MaxxVit, model_cfgs
from torch import nn

import cifarblocks
from cifarblocks.weights import fit_patches

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
    refused(model, {"model": state}, "state_dict must have tensors alone, but 'model' is none")
    refused(
        model, {"model.fc": torch.zeros(1)}, "state_dict has no tensor of this network under the names of torchvision"
    )
    refused(model, state, "source must be one of ['timm', 'torchvision'], got 'keras'", source="keras")


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
    with pytest.raises(Exception, match="[Ww]eights.only"):
        cifarblocks.load_published(model, path, "torchvision")


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


def test_patches_of_another_size_give_the_same_on_one_colour():
    weight, own = torch.randn(5, 3, 16, 16), torch.empty(5, 3, 4, 4)
    torch.testing.assert_close(fit_patches(weight, own).sum((2, 3)), weight.sum((2, 3)), rtol=1e-4, atol=1e-4)
    state = timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict()
    model = cifarblocks.create_model("vit_tiny_cifar", num_classes=7)
    cifarblocks.load_published(model, state, "timm")
    assert model.stem[1].weight.shape == (192, 3, 4, 4)
