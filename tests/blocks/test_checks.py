"""The checks of arguments: what is an int, a finite number, a rate, a sequence of odd sizes."""

import functools
import math

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn

from cifarblocks.blocks import (
    ECA,
    BasicBlock,
    Bottleneck,
    CSPStage,
    GlobalLocalFilter,
    GnConv,
    HorNetBlock,
    MBConv,
    MixerLayer,
    SqueezeExcite,
    checks,
)


@pytest.mark.parametrize("value", ["3", 1.5, 3.0, True, None, [3], math.nan, math.inf, torch.ones(2), torch.tensor(3)])
def test_what_is_no_int_is_a_type_error(value):
    with refuses(TypeError, "width"):
        checks.require_int(1, width=value)
    with refuses(TypeError, "image_size"):
        checks.height_and_width((8, value), "image_size")


def test_what_python_takes_for_an_index_is_an_int():
    checks.require_int(3, one=3, other=np.int64(3))
    with refuses(ValueError, "width", 3, 2):
        checks.require_int(3, width=np.int64(2))


@pytest.mark.parametrize("value", ["0.1", True, None, [0.1], 1j])
def test_what_is_no_number_is_a_type_error(value):
    for check in (checks.require_number, checks.require_rate):
        with refuses(TypeError, "eps"):
            check(eps=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_are_finite(value):
    for check in (checks.require_number, checks.require_rate):
        with refuses(ValueError, "eps", value):
            check(eps=value)


def test_numbers_and_rates_end_where_they_say():
    checks.require_number(0, 1, low=0, high=1, middle=np.float32(0.5))
    checks.require_rate(low=0, high=0.999)
    for value, bound in ((-0.1, 0), (1.1, 1)):
        with refuses(ValueError, "dropout", value, bound):
            checks.require_number(0, 1, dropout=value)
    for value in (-0.1, 1, 1.5):
        with refuses(ValueError, "drop_path", value):
            checks.require_rate(drop_path=value)


@pytest.mark.parametrize("sizes", [7, "357", b"3", None, {3: 5}])
def test_sizes_of_branches_are_a_sequence(sizes):
    with refuses(TypeError, "strips"):
        checks.require_odds(strips=sizes)


@pytest.mark.parametrize(("sizes", "named"), [((), ()), ((3, 4), 4), ((3, -1), -1)])
def test_sizes_of_branches_are_odd_and_there(sizes, named):
    with refuses(ValueError, "strips", named):
        checks.require_odds(strips=sizes)


@pytest.mark.parametrize("value", ["c", 3, None, [], {}])
def test_a_choice_is_one_of_the_names(value):
    with refuses(ValueError, "stem", "a", "b"):
        checks.choose({"a": 1, "b": 2}, stem=value)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: BasicBlock(16, 32, attention="eca"), ["attention", "'eca'", "functools.partial(ECA, kernel_size=3"]),
        (lambda: BasicBlock(16, 32, attention=ECA(32)), ["attention", "got one", "pass ECA", "functools.partial"]),
        (lambda: Bottleneck(16, 8, attention=GlobalLocalFilter), ["attention", "size", "functools.partial"]),
        (lambda: BasicBlock(16, 32, shortcut="A"), ["shortcut", "'A'", "ProjectionShortcut"]),
        (lambda: GnConv(32, 3, filter=GlobalLocalFilter), ["filter", "functools.partial(GlobalLocalFilter, size=..."]),
        (
            lambda: HorNetBlock(32, 3, filter=GlobalLocalFilter),
            ["filter", "functools.partial(GlobalLocalFilter, size=..."],
        ),
        (lambda: SqueezeExcite(8, activation=nn.ReLU()), ["activation", "pass ReLU", "functools.partial"]),
        (lambda: SqueezeExcite(8, gate="sigmoid"), ["gate", "'sigmoid'", "nn.ReLU"]),
        (lambda: CSPStage(8, 8, 1, block=print), ["block", "print", "drop_path"]),
        (lambda: BasicBlock(16, 32, attention=lambda: ECA(32)), ["attention", "too many positional arguments"]),
        (lambda: MBConv(8, 8, gate=MixerLayer), ["gate", "MixerLayer", "functools.partial"]),
    ],
)
def test_a_part_given_wrongly_is_answered_with_how_to_give_it(build, named):
    with refuses(TypeError, *named):
        build()


def test_a_part_may_be_a_class_a_partial_or_a_function():
    for attention in (ECA, SqueezeExcite, functools.partial(ECA, kernel_size=3), lambda channels: ECA(channels)):
        assert BasicBlock(16, 32, attention=attention)(torch.randn(2, 16, 8, 8)).shape == (2, 32, 8, 8)
    assert GnConv(32, 3, filter=functools.partial(GlobalLocalFilter, size=8))(torch.randn(2, 32, 8, 8)).shape[1] == 32
