"""Options and data that decide the result of a run, and the comparison of two runs by them."""

import json
import math
from typing import Any

from cifarblocks.training.errors import UserError


def decisive(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the result of a run, in plain values that JSON and a checkpoint can hold."""
    data = configuration["data"]
    untaught = {"teacher_weights": None}  # what runs from before there were teachers do not say
    chosen = {**untaught, **configuration["options"], "data": data["fingerprint"], "classes": data["classes"]}
    return json.loads(json.dumps(chosen))


def check_same(what: str, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run, or a checkpoint, of something else; older ones do not say what is newer than they.

    Raises:
        UserError: naming the first value that differs.
    """
    for key, value in now.items():
        if key in begun and not equal(begun[key], value):
            raise UserError(f"--resume: {what} with {key} {begun[key]!r}, and now it is {value!r}; give another --name")


def equal(one: Any, other: Any) -> bool:
    """Return True for equal values; numbers may differ by rounding, as means of pixels did between processors.

    >>> equal([0.1 + 0.2, "a"], [0.3, "a"]), equal([0.3], [0.3, 0.3]), equal(1, 2)
    (True, False, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return one == other
