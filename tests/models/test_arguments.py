"""Arguments of the named classifiers: what their signatures and help() say, and what is built and refused."""

import inspect
import pydoc
from dataclasses import fields

import pytest
import torch
from refusals import refuses
from torch import nn

import cifarblocks
from cifarblocks import registry
from cifarblocks.cli.show import description
from cifarblocks.models.arguments import Arguments
from cifarblocks.registry import find_model

NAMES = cifarblocks.list_models()
WITH_FIXED = {*cifarblocks.list_models("ecanet20_*"), *cifarblocks.list_models("eca_resnet20_pos*")}
COMMON = [field.name for field in fields(Arguments)]


def layout(model: nn.Module) -> list[str]:
    return [f"{path} {type(part).__name__} {part.extra_repr()}" for path, part in model.named_modules() if path]


@pytest.mark.parametrize("name", NAMES)
def test_every_signature_has_the_common_arguments_and_a_default_and_a_meaning_of_each(name):
    function = find_model(name)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:5] == COMMON
    text = pydoc.plain(pydoc.render_doc(function))
    for parameter in parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty
        assert f"{parameter.name}: {inspect.formatannotation(parameter.annotation)} = {parameter.default!r}" in text
        (meaning,) = function.__annotations__[parameter.name].__metadata__
        assert meaning.endswith(".")
        assert f"    {parameter.name}: {meaning}\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_of_the_signature_are_what_is_built(name):
    function = find_model(name)
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    build = inspect.unwrap(function)
    with torch.device("meta"):
        model = function()
        assert layout(model) == layout(function(**defaults))
        if name not in WITH_FIXED:
            assert layout(model) == layout(build(build.__annotations__["given"](**defaults)))
    assert getattr(cifarblocks.models, name) is function


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("resnet_20", {"attention": "none", "position": 2, "shortcut": "B"}),
        ("eca_resnet_32", {"kernel_size": 5}),
        ("eca_resnet_56", {"kernel_size": None}),
        ("coatnet_0", {"image_size": 224, "convolution": "mbconv"}),
        ("coatnet_cifar_opt", {"dropout": 0.1, "attention": "eca"}),
        ("hornet_tiny_gf", {"image_size": 224, "layer_scale": 1e-6}),
        ("improved_resnet20_convnext", {"drop_path": 0.05, "expansion": 4}),
        ("segnext_mscan_tiny_cifar", {"strips": (7, 11, 21)}),
        ("resnext18_dropout", {"attention": "none", "dropout": 0.4, "stages": 3}),
    ],
)
def test_own_arguments_and_own_defaults_are_in_the_signature(name, defaults):
    parameters = inspect.signature(find_model(name)).parameters
    assert {key: parameters[key].default for key in defaults} == defaults


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("atention", "attention"),
        ("in_chans", "in_channels"),
        ("img_size", "image_size"),
        ("drop_path_rate", "drop_path"),
        ("drop_rate", "dropout"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest_by_name_and_directly(typed, nearest):
    for build in (cifarblocks.models.resnet_20, lambda **given: cifarblocks.create_model("resnet_20", **given)):
        with refuses(TypeError, "resnet_20", typed, "eca", nearest):
            build(**{typed: "eca"})


def test_a_positional_argument_is_refused():
    with refuses(TypeError, "resnet_20", 10):
        cifarblocks.models.resnet_20(10)


def test_an_ablation_does_not_take_what_it_fixes():
    assert "kernel_size" not in inspect.signature(find_model("ecanet20_fixed_k3")).parameters
    assert "position" not in inspect.signature(find_model("eca_resnet20_pos1")).parameters


def test_a_function_of_ones_own_is_checked_and_shown(monkeypatch):
    monkeypatch.setattr(registry, "_factories", {})

    @cifarblocks.register_model
    def my_net(num_classes: int = 10, width=3) -> nn.Module:
        """One layer."""
        return nn.Linear(width, num_classes)

    assert cifarblocks.create_model("my_net", width=5).in_features == 5
    with refuses(TypeError, "my_net", "wdth", 5, "width"):
        cifarblocks.create_model("my_net", wdth=5)
    title, _, table = description("my_net").partition("\n\n")
    assert title == "my_net: One layer."
    assert [line.split() for line in table.splitlines()[1:]] == [["num_classes", "10"], ["width", "3"]]


def test_show_lists_every_argument_with_default_and_meaning():
    lines = [line.split(maxsplit=2) for line in description("eca_resnet_32").splitlines()]
    function = find_model("eca_resnet_32")
    for name, parameter in inspect.signature(function).parameters.items():
        assert [name, repr(parameter.default), function.__annotations__[name].__metadata__[0]] in lines
