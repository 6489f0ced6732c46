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
    "kernel_size": 3,
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


@pytest.mark.parametrize("wrong", [0, -2])
@pytest.mark.parametrize(("name", "argument"), sorted(set(SIZES) - {("CSPStage", "depth")}))
def test_zero_and_less_are_refused_by_name(name, argument, wrong):
    block = getattr(blocks, name)
    value = (3, wrong) if argument in ("strips", "kernel_sizes") else wrong
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {wrong}$"):
        block(**required(block) | {argument: value})


def test_a_stage_may_have_no_blocks_but_not_fewer():
    assert len(blocks.CSPStage(8, 8, 0).blocks) == 0
    with pytest.raises(ValueError, match="^depth must be at least 0, got -2$"):
        blocks.CSPStage(8, 8, -2)


@pytest.mark.parametrize(
    ("name", "argument", "others"),
    [
        ("ECA", "kernel_size", {}),
        ("GhostBottleneck", "kernel_size", {}),  # which stands in no convolution of this one
        ("GhostModule", "kernel_size", {}),
        ("GhostModule", "cheap_kernel_size", {"ratio": 1}),
        ("InvertedResidual", "kernel_size", {}),
    ],
)
def test_even_kernels_are_refused_by_name(name, argument, others):
    block = getattr(blocks, name)
    with pytest.raises(ValueError, match=f"^{argument} must be odd and positive, got 4$"):
        block(**required(block) | others | {argument: 4})


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: blocks.GhostBottleneck(8, 8, 8, se_ratio=-1), "se_ratio must be at least 0, got -1"),
        (lambda: blocks.LSKMBConv(8, 8, kernel_sizes=()), "kernel_sizes must have a size for at least one branch"),
        (lambda: blocks.CSPBottleneck(8, groups=3), r"hidden_channels must be divisible by groups \(3\), got 4"),
        (lambda: blocks.RelativeAttention(32, (8, 8, 8)), r"size must be one number or a height and a width, got"),
        (lambda: blocks.GlobalLocalFilter(8, (8,)), r"size must be one number or a height and a width, got \(8,\)"),
    ],
)
def test_what_else_is_refused_by_name(build, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        build()
