import pytest
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
    with pytest.raises(ValueError, match="'tiny' is already registered, by .*test_registry"):
        cifarblocks.register_model(tiny)
    assert cifarblocks.list_models() == ["tiny"]


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match="unknown model name 'eca_resnet20'; did you mean 'eca_resnet_20'"):
        cifarblocks.create_model("eca_resnet20")
    with pytest.raises(ValueError, match=r"unknown model name '\?'; list_models"):
        cifarblocks.create_model("?")


@pytest.mark.parametrize("name", cifarblocks.list_models())
def test_an_unknown_argument_is_a_type_error_that_names_it(name):
    with pytest.raises(TypeError, match="num_clases"):
        cifarblocks.create_model(name, num_clases=10)


def test_names_are_sorted_and_match_wildcards():
    names = cifarblocks.list_models()
    assert names == sorted(names)
    assert cifarblocks.list_models("resnet_?8") == ["resnet_18"]
    assert cifarblocks.list_models("RESNET*") == []
    assert set(cifarblocks.list_models("*eca*")) < set(names)
