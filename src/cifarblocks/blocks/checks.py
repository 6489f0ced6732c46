"""Checks of arguments; a bad one is refused by name and value."""

import inspect
import math
import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from textwrap import shorten
from typing import Any, TypeVar

from torch import Tensor, nn

Choice = TypeVar("Choice")
# Parts built without arguments, from the channels, and from both numbers of channels and the stride.
PARTS = {
    0: "nn.ReLU or functools.partial(nn.ELU, alpha=0.5)",
    1: "ECA or functools.partial(ECA, kernel_size=3)",
    3: "ProjectionShortcut or PaddingShortcut",
}
Size = int | tuple[int, int]  # height and width of a map, or one number for both


def is_sequence(value: Any) -> bool:
    """Return True for a list, a tuple or the like, and False for text and bytes."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def shown(value: Any) -> str:
    """Return the repr of a value, on one short line."""
    return shorten(repr(value), 80, placeholder=" ...")


def require_int(minimum: int, **values: Any) -> None:
    """Refuse the first value that is not an int, or is below `minimum`.

    Raises:
        TypeError: If it is not an int; a bool and a tensor are not.
        ValueError: If it is below `minimum`.

    >>> require_int(1, channels=64, stride=0)
    Traceback (most recent call last):
    ValueError: stride must be at least 1, got 0
    """
    for name, value in values.items():
        if isinstance(value, bool | Tensor):  # a bool is an index for Python
            raise TypeError(f"{name} must be an int, got {shown(value)}")
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an int, got {shown(value)}") from None
        if number < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def require_number(minimum: float = -math.inf, maximum: float = math.inf, /, **values: Any) -> None:
    """Refuse the first value that is not a finite number from `minimum` to `maximum`.

    Raises:
        TypeError: If it is not a number; a bool is not.
        ValueError: If it is nan, infinite or out of range.

    >>> require_number(0, eps=1e-6, scale=float("nan"))
    Traceback (most recent call last):
    ValueError: scale must be finite, got nan
    """
    for name, value in values.items():
        if isinstance(value, bool) or not issubclass(type(value), Real):
            raise TypeError(f"{name} must be a number, got {shown(value)}")
        if not abs(value) < math.inf:  # false for nan, and works for large ints, unlike `math.isfinite`
            raise ValueError(f"{name} must be finite, got {value}")
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")
        if value > maximum:
            raise ValueError(f"{name} must be at most {maximum}, got {value}")


def require_rate(**rates: Any) -> None:
    """Refuse the first rate that is not a number of at least 0 and below 1.

    >>> require_rate(drop_path=1)
    Traceback (most recent call last):
    ValueError: drop_path must be below 1, got 1
    """
    require_number(0, **rates)
    for name, rate in rates.items():
        if rate >= 1:
            raise ValueError(f"{name} must be below 1, got {rate}")


def require_odd(**sizes: Any) -> None:
    """Refuse the first size of a kernel that has no middle.

    >>> require_odd(kernel_size=4)
    Traceback (most recent call last):
    ValueError: kernel_size must be odd, got 4
    """
    require_int(1, **sizes)
    for name, size in sizes.items():
        if size % 2 == 0:
            raise ValueError(f"{name} must be odd, got {size}")


def require_odds(**sequences: Any) -> None:
    """Refuse the first value that is not a sequence of at least one odd size.

    >>> require_odds(strips=[])
    Traceback (most recent call last):
    ValueError: strips must have at least one size, got []
    """
    for name, sizes in sequences.items():
        if not is_sequence(sizes):
            raise TypeError(f"{name} must be a sequence of ints, got {shown(sizes)}")
        if not sizes:
            raise ValueError(f"{name} must have at least one size, got {shown(sizes)}")
        for size in sizes:
            require_odd(**{name: size})


def require_part(given: int = 0, /, *keywords: str, **parts: Any) -> None:
    """Refuse the first part that cannot be called to build a module.

    Args:
        given: Number of positional arguments that it is called with.
        keywords: Names of its keyword arguments.
        parts: Parts by the names of their arguments.

    >>> require_part(activation="relu")
    Traceback (most recent call last):
    TypeError: activation must build a module, such as nn.ReLU or functools.partial(nn.ELU, alpha=0.5), got 'relu'
    """
    for name, part in parts.items():
        called = getattr(part, "__name__", type(part).__name__)
        if isinstance(part, nn.Module):
            raise TypeError(
                f"{name} must build a module, got one: pass {called} itself, or functools.partial({called}, ...) with "
                "further arguments"
            )
        if not callable(part):
            none = "; for none pass nn.Identity" if part is None else ""
            raise TypeError(f"{name} must build a module, such as {PARTS[given]}, got {shown(part)}{none}")
        if reason := refusal(part, given, keywords):
            arguments = " and ".join([f"{given} argument{'s' * (given != 1)}", *keywords])
            missing = reason.removeprefix("missing a required argument: ").strip("'")
            fix = f"; pass functools.partial({called}, {missing}=...)" if missing != reason else ""
            raise TypeError(f"{name} is called with {arguments}, and {called} does not accept this: {reason}{fix}")


def refusal(part: Any, given: int, keywords: Sequence[str]) -> str | None:
    """Return why a class or function cannot be called with these arguments; None if it can, or if that is unknown."""
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):  # of some functions written in C
        return None
    try:
        signature.bind(*[None] * given, **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return None


def choose(choices: Mapping[str, Choice], **named: Any) -> Choice:
    """Return the choice that an argument names.

    Raises:
        ValueError: If it is not one of the choices.

    >>> choose({"cifar": 1, "imagenet": 4}, stem="cifar")
    1
    """
    ((name, value),) = named.items()
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {shown(value)}")
    return choices[value]


def height_and_width(size: Any, name: str = "size") -> tuple[int, int]:
    """Return height and width from one number or two.

    Raises:
        TypeError: If they are not ints.
        ValueError: If they are not one or two, or one of them is below 1.

    >>> height_and_width(8), height_and_width((8, 5))
    ((8, 8), (8, 5))
    """
    both = tuple(size) if is_sequence(size) else (size, size)
    if len(both) != 2:
        raise ValueError(f"{name} must be one number or a height and a width, got {size}")
    for side in both:
        require_int(1, **{name: side})
    height, width = both
    return height, width


def mlp_width(channels: int, mlp_ratio: float) -> int:
    """Return the hidden channels of an MLP that is `mlp_ratio` times as wide as its input, rounded down.

    Raises:
        ValueError: If that is below 1.

    >>> mlp_width(64, 4)
    256
    """
    require_number(0, mlp_ratio=mlp_ratio)
    width = int(mlp_ratio * channels)
    if width < 1:
        raise ValueError(f"mlp_ratio must be at least 1 / channels ({channels}), got {mlp_ratio}")
    return width
