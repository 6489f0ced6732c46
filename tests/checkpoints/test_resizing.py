"""Weights made for another image size: resized in one place, for own files and published ones."""

import pytest
import timm
import torch
from references import randomise
from refusals import refuses

import cifarblocks
from cifarblocks.blocks import GlobalLocalFilter, RelativeAttention
from cifarblocks.checkpoints.resizing import fitting, resize_patches


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda size: RelativeAttention(32, size), (2, 32, 12, 8)),
        (lambda size: GlobalLocalFilter(8, size), (2, 8, 12, 8)),
    ],
)
def test_tables_for_another_map_are_what_their_blocks_make_of_them(build, x):
    small, large, x = randomise(build((6, 4))).eval(), build((12, 8)).eval(), torch.randn(x)
    large.load_state_dict(fitting(large, small.state_dict(), (6, 4)))
    torch.testing.assert_close(large(x), small(x), rtol=1e-5, atol=1e-5)


def test_positions_are_resized_as_published_ones_are():
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=10).state_dict()
    own, expected, found = (
        cifarblocks.create_model("vit_tiny_cifar", image_size=size, num_classes=10) for size in (32, 48, 48)
    )
    cifarblocks.load_published(own, theirs, "timm")
    cifarblocks.load_published(expected, theirs, "timm")
    found.load_state_dict(fitting(found, own.state_dict(), (32, 32)))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, msg=name)


def test_positions_of_a_map_that_is_not_square_keep_their_places():
    """Without the image size, 64 positions are taken as 8×8; for 4×16 that would mix rows and columns."""
    own, found = (cifarblocks.create_model("nano_vit", image_size=size) for size in ((8, 32), (16, 64)))
    down, across = torch.meshgrid(torch.arange(4.0), torch.arange(16.0), indexing="ij")
    weights = own.state_dict()
    weights["stem.4.positions"][1:, 0], weights["stem.4.positions"][1:, 1] = down.flatten(), across.flatten()
    found.load_state_dict(fitting(found, weights, (8, 32)))
    token, places = found.state_dict()["stem.4.positions"].split([1, 8 * 32])
    assert torch.equal(token, weights["stem.4.positions"][:1])
    down, across = places[:, :2].view(8, 32, 2).unbind(2)
    torch.testing.assert_close(down, down[:, :1].expand(8, 32))
    torch.testing.assert_close(across, across[:1].expand(8, 32))
    for line, last in ((down[:, 0], 3), (across[0], 15)):
        assert (line.diff() > 0).all()
        torch.testing.assert_close(line + line.flip(0), torch.full_like(line, last))  # the centre stays the centre


def test_positions_of_as_many_places_on_another_map_are_resized():
    own, found = (cifarblocks.create_model("nano_vit", image_size=size) for size in ((16, 16), (8, 32)))
    weights = own.state_dict()
    found.load_state_dict(fitting(found, weights, (16, 16)))
    positions = weights["stem.4.positions"]
    maps = positions[1:].T.reshape(1, -1, 8, 8)
    resized = torch.nn.functional.interpolate(maps, (4, 16), mode="bicubic")
    torch.testing.assert_close(found.stem[4].positions[1:], resized.flatten(2)[0].T)
    assert torch.equal(found.stem[4].positions[:1], positions[:1])


def test_patches_of_another_size_give_the_same_on_one_colour():
    weight = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(resize_patches(weight, (4, 4)).sum((2, 3)), weight.sum((2, 3)), rtol=1e-4, atol=1e-4)
    state = timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict()
    model = cifarblocks.create_model("vit_tiny_cifar", num_classes=7)
    cifarblocks.load_published(model, state, "timm")
    assert model.stem[1].weight.shape == (192, 3, 4, 4)


@pytest.mark.parametrize("new_classifier", [True, False])
def test_what_does_not_fit_is_named(new_classifier):
    model = cifarblocks.create_model("mlp", num_classes=5)
    other = cifarblocks.create_model("mlp", num_classes=7, image_size=16).state_dict()
    with refuses(ValueError, "stem.2.weight", (512, 768)):
        fitting(model, other, new_classifier=new_classifier)


@pytest.mark.parametrize(("dtype", "value"), [(torch.float32, 1e300), (torch.float16, 1e6)])
def test_numbers_must_be_finite_in_the_type_of_the_model(dtype, value):
    model = torch.nn.Linear(1, 1, dtype=dtype)
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    fitting(model, weights)
    with refuses(ValueError, "bias", dtype):
        fitting(model, {**weights, "bias": torch.full((1,), value, dtype=torch.float64)})
