"""create_model with trained weights: what the card says holds unless it is passed."""

import logging
from dataclasses import replace

import pytest
import torch
from cards import CARD
from refusals import refuses

import cifarblocks
from cifarblocks import registry
from cifarblocks.checkpoints.resizing import adapt_channels
from cifarblocks.training.run_folder.weights import save_weights

NAME = "eca_resnet_20"


@pytest.fixture
def saved(tmp_path):
    """Write a model's weights with a card of its arguments, and return both."""

    def save(model=CARD.model, **arguments):
        built = cifarblocks.create_model(model, **arguments)
        size = built.image_size
        arguments = {**arguments, "image_size": list(size)}
        card = replace(CARD, model=model, arguments=arguments, image_size=size, classes=["dark", "light"])
        save_weights(tmp_path / "a.safetensors", built.state_dict(), card)
        return tmp_path / "a.safetensors", built

    return save


def test_default_and_pretrained_are_the_first_weights_of_a_model():
    first = cifarblocks.list_weights(f"{NAME}.*")[0].partition(".")[2]
    expected = cifarblocks.create_model(NAME, weights=first).state_dict()
    for given in ({"weights": "default"}, {"pretrained": True}):
        found = cifarblocks.create_model(NAME, **given).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_models_own_arguments_are_those_of_the_card_unless_passed(saved):
    path, built = saved("resnet_20", num_classes=2, image_size=(8, 6), attention="eca", dropout=0.25)
    model = cifarblocks.create_model("resnet_20", path)
    assert model.image_size == (8, 6)
    assert model.head.dropout.p == 0.25
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in built.state_dict().items())
    assert cifarblocks.create_model("resnet_20", str(path), dropout=0.5).head.dropout.p == 0.5
    with refuses(ValueError, path, "stages.0.0.attention2.conv.weight"):
        cifarblocks.create_model("resnet_20", path, attention="none")


def test_weights_that_do_not_fit_an_argument_are_answered_with_their_own(saved):
    path, _ = saved("resnet_20", num_classes=2, attention="cbam")
    for attention in ("eca", "none"):
        with refuses(ValueError, path, "attention='cbam'") as caught:
            cifarblocks.create_model("resnet_20", weights=path, num_classes=2, dropout=0.1, attention=attention)
        assert "num_classes" not in str(caught.value)
        assert "dropout" not in str(caught.value)


def test_another_number_of_classes_draws_a_new_last_layer_and_says_so(saved, caplog):
    path, built = saved(num_classes=2)
    with caplog.at_level(logging.WARNING, "cifarblocks"):
        model = cifarblocks.create_model(NAME, path, num_classes=5).eval()
    assert [all(part in record.getMessage() for part in (NAME, "5", "2")) for record in caplog.records] == [True]
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(x), built.eval().forward_features(x))
    assert isinstance(cifarblocks.create_model(NAME, path, num_classes=0).head.classifier, torch.nn.Identity)


def test_the_cards_number_of_classes_keeps_the_last_layer(saved, caplog):
    path, built = saved(num_classes=2)
    model = cifarblocks.create_model(NAME, path, num_classes=2)
    assert torch.equal(model.head.classifier.weight, built.head.classifier.weight)
    assert not caplog.records


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_adapt_the_stem_and_say_so(saved, caplog, channels):
    path, built = saved(num_classes=2)
    model = cifarblocks.create_model(NAME, path, in_channels=channels)
    name = next(name for name, value in built.state_dict().items() if value.ndim == 4)
    expected = adapt_channels(built.state_dict()[name], channels)
    assert torch.equal(model.state_dict()[name], expected)
    assert [all(part in record.getMessage() for part in (str(channels), "3")) for record in caplog.records] == [True]
    # A grey image as one channel gives what it gives in all three.
    if channels == 1:
        grey = torch.randn(2, 1, 32, 32)
        torch.testing.assert_close(model.eval()(grey), built.eval()(grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5)


def test_another_image_size_resizes_positions(saved):
    path, built = saved("vit_nano_cifar", num_classes=2)
    model = cifarblocks.create_model("vit_nano_cifar", path, image_size=48)
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 2)
    assert model.state_dict()["stem.4.positions"].shape != built.state_dict()["stem.4.positions"].shape


def test_backbone_device_and_type(saved):
    path, built = saved(num_classes=2)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    backbone = cifarblocks.create_model(NAME, path, features_only=True, out_indices=(0, 2), dtype=torch.float64).eval()
    for found, expected in zip(backbone(x), built.double().eval().feature_maps(x)[::2], strict=True):
        torch.testing.assert_close(found, expected)
    with refuses(ValueError, "device", "meta"):
        cifarblocks.create_model(NAME, path, device="meta")
    with refuses(ValueError, "device", "meta"), torch.device("meta"):
        cifarblocks.create_model(NAME, path)


def test_weights_are_found_by_name_before_path(saved, tmp_path, monkeypatch):
    path, built = saved(num_classes=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    path.rename(tmp_path / "run" / "last.safetensors")
    for name in ("digits", "eca_resnet_20.digits"):  # folders of these names change nothing
        (tmp_path / name).mkdir()
        assert cifarblocks.create_model(NAME, name).num_classes == 10
    assert cifarblocks.create_model(NAME, pretrained=True).num_classes == 10
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("run", "./run/last.safetensors", tmp_path / "run", "~/run/last.safetensors"):
        found = cifarblocks.create_model(NAME, given).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in built.state_dict().items())


def test_nothing_is_said_of_a_last_layer_that_is_not_there(saved, caplog):
    path, _ = saved(num_classes=2)
    cifarblocks.create_model(NAME, path, num_classes=0)
    cifarblocks.create_model(NAME, path, num_classes=5, features_only=True)
    assert not caplog.records


def test_the_stem_of_a_network_without_one_is_its_first_convolution(saved):
    path, built = saved("cnn", num_classes=2)
    model = cifarblocks.create_model("cnn", path, in_channels=1)
    grey = torch.randn(2, 1, 32, 32)
    expected = built.eval()(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model.eval()(grey), expected, atol=1e-5, rtol=1e-5)


def test_weights_of_another_model_or_name_are_refused(saved):
    path, _ = saved(num_classes=2)
    with refuses(ValueError, "resnet_20", NAME, path):
        cifarblocks.create_model("resnet_20", path)
    with refuses(ValueError, "weights", "'digit'", "'digits'", NAME):
        cifarblocks.create_model(NAME, "digit")
    with refuses(ValueError, "resnet_110", "no trained weights", "eca_resnet_20.digits"):
        cifarblocks.create_model("resnet_110", pretrained=True)
    with refuses(TypeError, NAME, "in_chans", "in_channels"):
        cifarblocks.create_model(NAME, path, in_chans=1)
    for wrong, hint in ((3, "string"), (["digits"], "string"), (True, "pretrained=True")):
        with refuses(TypeError, "weights", hint):
            cifarblocks.create_model(NAME, wrong)


def test_a_backbone_of_a_function_of_ones_own_needs_one(monkeypatch):
    monkeypatch.setattr(registry, "_factories", {})

    @cifarblocks.register_model
    def tiny() -> torch.nn.Module:
        return torch.nn.Linear(3, 1)

    with refuses(ValueError, "features_only", "tiny", "Linear"):
        cifarblocks.create_model("tiny", features_only=True)
