import functools

import pytest
import torch
from refusals import assert_names, refuses
from torch import nn

import cifarblocks
from cifarblocks import registry


@pytest.fixture
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_factories", {})


def test_a_registered_function_is_built_by_its_name_with_its_arguments(empty_registry):
    @cifarblocks.register_model
    def tiny(width: int = 3) -> nn.Module:
        return nn.Linear(width, 1)

    assert cifarblocks.create_model("tiny", width=7).in_features == 7
    assert cifarblocks.list_models() == ["tiny"]
    assert tiny().in_features == 3


def test_a_second_model_of_one_name_is_refused_and_the_first_stays(empty_registry):
    def tiny() -> nn.Module:
        return nn.Linear(1, 1)

    cifarblocks.register_model(tiny)
    with refuses(ValueError, "tiny", __name__):
        cifarblocks.register_model(tiny)
    assert cifarblocks.list_models() == ["tiny"]


def test_an_unknown_name_suggests_near_ones():
    with refuses(ValueError, "eca_resnet20", "eca_resnet_20"):
        cifarblocks.create_model("eca_resnet20")
    with refuses(ValueError, "RESNET_18", "resnet_18"):
        cifarblocks.create_model("RESNET_18")
    with refuses(ValueError, "resnet_20.digits", "'resnet_20' with weights='digits'"):
        cifarblocks.create_model("resnet_20.digits")
    with refuses(TypeError, "pattern", "None"):
        cifarblocks.list_models(None)
    with refuses(ValueError, "?", "list_models"):
        cifarblocks.create_model("?")


def test_a_name_without_wildcards_that_finds_nothing_warns_with_them():
    with pytest.warns(UserWarning, match="resnet") as caught:
        assert cifarblocks.list_models("resnet") == []
    assert_names(str(caught[0].message), "'resnet'", '"*resnet*"')
    assert cifarblocks.is_model("resnet_18")
    assert not cifarblocks.is_model("resnet18")


@pytest.mark.parametrize(
    ("theirs", "ours", "meaning"),
    [
        ("in_chans", "in_channels", "channels of the images"),
        ("img_size", "image_size", "Height and width"),
        ("drop_rate", "dropout", "Dropout rate"),
        ("drop_path_rate", "drop_path", "Drop path rate"),
        ("num_class", "num_classes", "Number of classes"),
        ("attn_layer", "attention", "Attention of each block"),
        ("global_pool", "head", "pools as its paper does"),
        ("checkpoint_path", "weights", "load_published"),
        ("pretrained_cfg", "load", "card"),
        ("exportable", "model", "exported"),
        ("scriptable", "model", "traced"),
        ("patch_size", "each model", "its own patch size"),
    ],
)
def test_words_of_timm_are_answered_with_ours_and_what_they_take(theirs, ours, meaning):
    with refuses(TypeError, "resnet_18", theirs, ours, meaning):
        cifarblocks.create_model("resnet_18", **{theirs: 1})


def test_names_are_sorted_and_match_wildcards():
    names = cifarblocks.list_models()
    assert names == sorted(names)
    assert cifarblocks.list_models("resnet_?8") == ["resnet_18"]
    assert cifarblocks.list_models("RESNET*") == []
    assert set(cifarblocks.list_models("*eca*")) < set(names)


def test_a_model_is_built_on_a_device_and_in_a_dtype():
    model = cifarblocks.create_model("resnet_20", device="meta", dtype=torch.bfloat16)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model = cifarblocks.create_model("resnet_20", device=torch.device("cpu"), dtype=torch.float64)
    assert model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_a_dtype_changes_no_initial_value_but_by_rounding():
    torch.manual_seed(0)
    expected = cifarblocks.create_model("resnet_20").state_dict()
    torch.manual_seed(0)
    model = cifarblocks.create_model("resnet_20", dtype=torch.bfloat16)
    for path, value in model.state_dict().items():
        assert torch.equal(value, expected[path].to(value.dtype))


def test_a_device_that_is_not_named_is_torchs_default():
    with torch.device("meta"):
        model = cifarblocks.create_model("resnet_20")
    assert next(model.parameters()).device.type == "meta"


def test_a_dtype_of_whole_numbers_is_refused():
    with refuses(TypeError):
        cifarblocks.create_model("resnet_20", dtype=torch.int64)


@pytest.mark.parametrize("name", [None, 3, ["resnet_20"]])
def test_a_name_is_a_string(name):
    with refuses(TypeError, "name"):
        cifarblocks.create_model(name)


@pytest.mark.parametrize("factory", ["resnet_20", 3, functools.partial(nn.Linear, 1, 1)])
def test_what_has_no_name_is_not_registered(empty_registry, factory):
    with refuses(TypeError, "factory"):
        cifarblocks.register_model(factory)
