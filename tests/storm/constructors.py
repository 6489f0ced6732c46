"""Arguments of every block and network: what makes no sense is refused by the argument's name, early."""

import inspect
import math
import operator
import random
from collections.abc import Sequence
from functools import cache
from numbers import Real
from typing import Any

import numpy as np
import torch
from properties import required
from refusals import assert_names

import cifarblocks
from cifarblocks import blocks
from cifarblocks.registry import find_model

NAN, INF = math.nan, math.inf
VALUES = [None, True, False, "3", "", b"3", 1.5, NAN, INF, -INF, -1, -0.5, 0, 1, 2, 7, 0.5, 1.0, 1 + 1j, np.int64(3)]
VALUES += [[], (), {}, set(), [3], (3, 5), (4, 4), (1, 2, 3), [NAN], [None], ["3"], [[3]], (True, 8), (8.5, 8)]
VALUES += [
    object(),
    np.array([3, 5]),
    torch.ones(2),
    torch.tensor(3),
    np.float32(0.25),
    np.float64(NAN),
    print,
    torch.ones(9, 9),
]
TARGETS = [name for name in blocks.__all__ if inspect.signature(getattr(blocks, name)).parameters]
TARGETS += cifarblocks.list_models()


def case(seed: int) -> None:
    """Give one argument of a block or network a value, sensible or not; all others can be built with."""
    draw = random.Random(seed)
    name = draw.choice(TARGETS)
    argument = draw.choice(list(parameters(name)))
    value = draw.choice(VALUES)
    said = f"{name}({argument}={value!r})"
    try:
        with torch.device("meta"):
            build(name, argument, value)
    except (TypeError, ValueError) as error:
        # A block that is too narrow for what it is built from says so of the part.
        assert_names(str(error).replace("branch_", ""), argument.removeprefix("branch_"))
    except Exception as error:
        raise AssertionError(f"{said} fails late: {error!r}") from error
    else:
        assert sensible(parameters(name)[argument], value), f"{said} is accepted"


@cache
def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(blocks, name, None) or find_model(name)).parameters)


def build(name: str, argument: str, value: Any) -> None:
    if name in blocks.__all__:
        block = getattr(blocks, name)
        block(**required(block) | {argument: value})
    else:
        cifarblocks.create_model(name, **{argument: value})


def sensible(parameter: inspect.Parameter, value: Any) -> bool:
    """Return True if the annotation of an argument, or None as its default, allows a value."""
    if value is None:
        return parameter.default is None or "None" in str(parameter.annotation)
    wanted = str(parameter.annotation)
    if "Callable" in wanted or "type[" in wanted:
        return callable(value)
    return (
        ("int" in wanted and whole(value))
        or ("float" in wanted and number(value))
        or ("tuple[int, int]" in wanted and several(value, whole) and len(value) == 2)
        or ("Sequence[int]" in wanted and several(value, whole))
        or ("Sequence[float]" in wanted and several(value, number))
        or ("str" in wanted and isinstance(value, str))
    )


def whole(value: Any) -> bool:
    try:
        return operator.index(value) is not None and not isinstance(value, bool | torch.Tensor)
    except TypeError:
        return False


def number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) < INF


def several(value: Any, kind: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(map(kind, value))
