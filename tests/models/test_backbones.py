"""Backbones give the maps that are asked for, and have no parameter that takes part in none."""

import pytest
import torch
from networks import NO_MAPS, images, small, walk
from refusals import refuses
from torch import Tensor, nn
from two_processes import run

import cifarblocks

SIX = ["eca_resnet_20", "cnn", "ghost_resnet_20", "mlp_mixer_tiny", "nano_vit", "resnest_nano_cifar"]


def without_gradient(model: nn.Module, outputs: list[Tensor]) -> list[str]:
    torch.stack([output.sum() for output in outputs]).sum().backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", walk(without=NO_MAPS))
def test_a_backbone_gives_the_maps_of_its_classifier(name):
    whole = small(name).eval()
    x = images(whole, dtype=torch.float32)
    maps, count = whole.feature_maps(x), len(whole.stages)
    for indices in (None, (0,), (-1, 0) if count > 1 else (-1,)):
        model = small(name, features_only=True, out_indices=indices).eval()
        chosen = range(count) if indices is None else indices
        assert model.load_state_dict(whole.state_dict(), strict=False).missing_keys == []
        for ours, index in zip(model(x), chosen, strict=True):
            assert torch.equal(ours, maps[index])
        assert model.feature_info == [whole.feature_info[index] for index in chosen]
        assert (model.in_channels, model.image_size) == (whole.in_channels, whole.image_size)


@pytest.mark.parametrize("name", walk(without=NO_MAPS))
def test_every_parameter_of_a_backbone_has_a_gradient(name):
    for indices in (None, (0,)):
        model = small(name, features_only=True, out_indices=indices).train()
        assert without_gradient(model, model(images(model, dtype=torch.float32))) == []
        assert {path.split(".")[0] for path, _ in model.named_parameters()} <= {"stem", "stages"}
        assert len(model.stages) == 1 or indices is None


@pytest.mark.parametrize("name", walk())
def test_every_parameter_of_a_network_without_classes_has_a_gradient(name):
    model = small(name, num_classes=0).train()
    assert without_gradient(model, [model(images(model, dtype=torch.float32))]) == []


def test_a_backbone_starts_with_the_values_of_its_classifier():
    torch.manual_seed(0)
    whole = cifarblocks.create_model("resnet_20").state_dict()
    torch.manual_seed(0)
    for path, value in cifarblocks.create_model("resnet_20", features_only=True).state_dict().items():
        assert torch.equal(value, whole[path])


@pytest.mark.parametrize("indices", [(0, 3), (-4,), (1, 1), (2, -1), (), (1.0,), (True,), 1, "1", ("1",)])
def test_wrong_indices_are_refused(indices):
    with refuses(ValueError, "out_indices", 3, repr(indices)):
        cifarblocks.create_model("resnet_20", features_only=True, out_indices=indices)


def test_indices_without_a_backbone_are_refused():
    with refuses(ValueError, "out_indices", (1, 2), "features_only"):
        cifarblocks.create_model("resnet_20", out_indices=(1, 2))


@pytest.mark.slow
def test_backbones_train_in_two_processes(tmp_path):
    for status, output in run(tmp_path, "backbone", *SIX):
        assert status == 0, output
        assert output.split() == SIX
