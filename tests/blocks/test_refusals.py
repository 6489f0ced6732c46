"""Arguments that no block can have are refused by name and value."""

import inspect

import pytest
import torch
from properties import GENERIC, required
from refusals import refuses
from torch import nn

from cifarblocks import blocks

SIZES = [
    (name, parameter.name)
    for name in blocks.__all__
    for parameter in inspect.signature(getattr(blocks, name)).parameters.values()
    if parameter.annotation in (int, int | None, int | tuple[int, int]) or parameter.name == "mlp_ratio"
]
SIZES += [("MSCA", "strips"), ("MSCABlock", "strips"), ("MSCAUnit", "strips"), ("LSKMBConv", "kernel_sizes")]


@pytest.mark.parametrize("name", sorted(set(GENERIC) - {"DropPath"}))
def test_the_required_arguments_are_enough(name):
    block = getattr(blocks, name)
    assert isinstance(block(**required(block)), nn.Module)


@pytest.mark.parametrize("wrong", [0, -2])
@pytest.mark.parametrize(("name", "argument"), sorted(set(SIZES) - {("CSPStage", "depth")}))
def test_zero_and_less_are_refused_by_name(name, argument, wrong):
    block = getattr(blocks, name)
    value = (3, wrong) if argument in ("strips", "kernel_sizes") else wrong
    with refuses(ValueError, argument, wrong):
        block(**required(block) | {argument: value})


def test_a_stage_may_have_no_blocks():
    assert len(blocks.CSPStage(8, 8, 0).blocks) == 0


# A block, the arguments beside those that it cannot be built without, and what the message must name.
REFUSED = [
    ("BasicBlock", {"attention_position": 4}, ["attention_position", 4]),
    ("Bottleneck", {"groups": 2, "base_width": 4}, ["base_width", 8, 4]),
    ("CSPBottleneck", {"groups": 3}, ["hidden_channels", 8, "groups", 3]),
    ("CSPStage", {"depth": -2}, ["depth", -2]),
    ("CSPStage", {"depth": 3, "drop_path": [0.0, 0.1]}, ["drop_path", 3, 2]),
    *[("DropPath", {"rate": rate}, ["rate", rate]) for rate in (-0.1, 1, 1.5, float("nan"))],
    ("ECA", {"kernel_size": 4}, ["kernel_size", 4]),
    ("GhostBottleneck", {"kernel_size": 4}, ["kernel_size", 4]),  # which stands in no convolution of this one
    ("GhostBottleneck", {"se_ratio": -1}, ["se_ratio", -1]),
    ("GhostModule", {"kernel_size": 4}, ["kernel_size", 4]),
    ("GhostModule", {"cheap_kernel_size": 4, "ratio": 1}, ["cheap_kernel_size", 4]),
    ("GhostModule", {"ratio": 9}, ["ratio", 9, "out_channels", 8]),
    ("CopyModule", {"ratio": 9}, ["ratio", 9, "out_channels", 8]),
    ("GlobalLocalFilter", {"size": (8,)}, ["size", (8,)]),
    ("GlobalLocalFilter", {"channels": 7}, ["channels", 7]),
    ("GlobalContext", {"hidden_channels": 1}, ["hidden_channels", 2, 1]),
    ("GnConv", {"channels": 36, "order": 4}, ["channels", 36, "order", 8]),
    ("InvertedResidual", {"kernel_size": 4}, ["kernel_size", 4]),
    ("LSKAttention", {"channels": 1}, ["channels", 1]),
    ("LSKMBConv", {"kernel_sizes": ()}, ["kernel_sizes"]),
    ("MSCA", {"strips": (3, 4)}, ["strips", 4]),
    ("PaddingShortcut", {"out_channels": 4}, ["out_channels", 4, "in_channels", 8]),
    ("RelativeAttention", {"out_channels": 48, "head_channels": 32}, ["out_channels", 48, "head_channels", 32]),
    ("RelativeAttention", {"size": (8, 8, 8)}, ["size", (8, 8, 8)]),
    ("RelativeAttention", {"size": (0, 3)}, ["size", 0]),
    ("SelectiveKernel", {"groups": 3}, ["channels", 8, "groups", 3]),
    ("SelfAttention", {"channels": 100, "head_channels": 64}, ["channels", 100, "head_channels", 64]),
    ("SimAM", {"regularisation": -1e-4}, ["regularisation", -1e-4]),
    ("SplitAttention", {"channels": 64, "groups": 3}, ["channels", 64, "groups", 3]),
    ("SplitAttention", {"channels": 6, "groups": 3}, ["groups", 3, 32]),
    ("TripletAttention", {"kernel_size": 4}, ["kernel_size", 4]),
]


@pytest.mark.parametrize(("name", "arguments", "named"), REFUSED)
def test_what_else_is_refused_by_name(name, arguments, named):
    block = getattr(blocks, name)
    with refuses(ValueError, *named):
        block(**required(block) | arguments)


# A block, the argument of a wrong type, and its value.
WRONG_TYPES = [
    ("CBAM", "norm", nn.BatchNorm2d(1)),
    ("CSPStage", "drop_path", None),
    ("CSPStage", "block", 3),
    ("ConvNeXtBlock", "layer_scale", "1"),
    ("CoordinateAttention", "activation", "relu"),
    ("DropPath", "rate", "0.1"),
    ("ECA", "channels", "3"),
    ("GnConv", "channels", 8.0),
    ("InvertedResidual", "gate", nn.Identity()),
    ("LSKMBConv", "gate", "eca"),
    ("LayerNorm2d", "eps", True),
    ("LayerScale", "initial_value", None),
    ("MSCA", "strips", 7),
    ("PreActBlock", "stride", 1.5),
    ("RelativeAttention", "size", "88"),
    ("SimAM", "regularisation", "1e-4"),
    ("SqueezeExcite", "activation", "relu"),
]


@pytest.mark.parametrize(("name", "argument", "value"), WRONG_TYPES)
def test_wrong_types_are_refused_by_name(name, argument, value):
    block = getattr(blocks, name)
    with refuses(TypeError, argument):
        block(**required(block) | {argument: value})


def test_none_in_place_of_a_part_is_answered_with_the_identity():
    with refuses(TypeError, "attention", None, "nn.Identity"):
        blocks.BasicBlock(8, 8, attention=None)


@pytest.mark.parametrize("block", [blocks.GRN(3), blocks.LayerScale(3, 1.0)])
@pytest.mark.parametrize("shape", [(2, 3, 3, 3, 3), (3, 3, 3)])
def test_what_is_no_map_is_refused_where_another_axis_would_pass_for_the_channels(block, shape):
    with refuses(ValueError, "x", len(shape)):
        block(torch.randn(shape))


def test_another_number_of_tokens_is_refused():
    with refuses(ValueError, "tokens", 10, 9):
        blocks.MixerLayer(10, 12, 6, 48)(torch.randn(2, 9, 12))
