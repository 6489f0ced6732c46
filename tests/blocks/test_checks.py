"""The checks of arguments: what is an int, a finite number, a rate, a sequence of odd sizes."""

import math

import numpy as np
import pytest
import torch
from refusals import refuses

from cifarblocks.blocks import checks


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
