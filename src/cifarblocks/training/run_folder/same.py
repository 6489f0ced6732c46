"""Options and data that decide the result of a run, and the comparison of two runs by them."""

import json
import math
from typing import Any

from cifarblocks.training.errors import UserError


def decisive(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return the options and data that decide the result of a run, as plain values for JSON and checkpoints."""
    data = configuration["data"]
    untaught = {"teacher_weights": None}  # runs of older releases do not record a teacher
    chosen = {**untaught, **configuration["options"], "data": data["fingerprint"], "classes": data["classes"]}
    return json.loads(json.dumps(chosen))


def check_same(what: str, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to continue a run or checkpoint of other options or data; older ones do not record newer options.

    Raises:
        UserError: If a value differs; the message names the first.
    """
    for key, value in now.items():
        if key in begun and not equal(begun[key], value):
            raise UserError(f"--resume: {what} with {key} {begun[key]!r}, and now it is {value!r}; give another --name")


def equal(one: Any, other: Any) -> bool:
    """Return True for equal values; numbers may differ by rounding, as means of pixels do between processors.

    >>> equal([0.1 + 0.2, "a"], [0.3, "a"]), equal([0.3], [0.3, 0.3]), equal(1, 2)
    (True, False, False)
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12)
    return one == other
