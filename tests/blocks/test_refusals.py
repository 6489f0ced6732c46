"""Sizes that no block can have are refused by their names."""

import inspect

import pytest
from properties import GENERIC
from torch import nn

from cifarblocks import blocks

# What a block cannot be built without.
REQUIRED = {
    "in_channels": 8,
    "out_channels": 8,
    "channels": 8,
    "hidden_channels": 8,
    "bottleneck_channels": 8,
    "tokens": 8,
    "token_hidden": 8,
    "channel_hidden": 8,
    "depth": 2,
    "order": 2,
    "mlp_ratio": 4,
    "size": 8,
    "head_channels": 4,
    "initial_value": 1.0,
}
SIZES = [
    (name, parameter.name)
    for name in blocks.__all__
    for parameter in inspect.signature(getattr(blocks, name)).parameters.values()
    if parameter.annotation in (int, int | None, int | tuple[int, int]) or parameter.name == "mlp_ratio"
]
SIZES += [("MSCA", "strips"), ("MSCABlock", "strips"), ("MSCAUnit", "strips"), ("LSKMBConv", "kernel_sizes")]


def required(block: type[nn.Module]) -> dict[str, object]:
    parameters = inspect.signature(block).parameters
    return {name: value for name, value in REQUIRED.items() if name in parameters}


@pytest.mark.parametrize("name", sorted(set(GENERIC) - {"DropPath"}))
def test_the_required_arguments_are_enough(name):
    block = getattr(blocks, name)
    assert isinstance(block(**required(block)), nn.Module)


@pytest.mark.parametrize(("name", "argument"), SIZES)
def test_zero_and_less_are_refused_by_name(name, argument):
    block = getattr(blocks, name)
    value = (0, -1) if argument in ("strips", "kernel_sizes") else 0
    for wrong in (value, -2 if value == 0 else (-2, 3)):
        if (name, argument, wrong) == ("CSPStage", "depth", 0):
            continue  # a stage may have no blocks
        with pytest.raises(ValueError, match=rf"^{argument} must be") as refusal:
            block(**required(block) | {argument: wrong})
        assert str(wrong if isinstance(wrong, int) else wrong[0]) in str(refusal.value)
