"""Attention modules by name, for the argument `attention` of the named classifiers."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, TypeVar

from torch import nn

import cifarblocks.blocks as blocks
from cifarblocks.blocks.checks import require_part, shown
from cifarblocks.blocks.residual import Attention
from cifarblocks.models.arguments import Arguments

Gate = TypeVar("Gate", bound=Attention)

_attentions: dict[str, Attention] = {
    "none": nn.Identity,
    "cbam": blocks.CBAM,
    "coordinate": blocks.CoordinateAttention,
    "eca": blocks.ECA,
    "global_context": blocks.GlobalContext,
    "lsk": blocks.LSKAttention,
    "msca": blocks.MSCA,
    "se": blocks.SqueezeExcite,
    "selective_kernel": blocks.SelectiveKernel,
    "simam": blocks.SimAM,
    "triplet": blocks.TripletAttention,
}
NAMES = ", ".join(f'"{name}"' for name in _attentions) + ", or a name given to `register_attention`"


@dataclass(frozen=True, kw_only=True)
class AttentionArguments(Arguments):
    """Arguments of networks with an attention module in each block."""

    attention: Annotated[str, f"Attention of each block: {NAMES}."] = "none"


def register_attention(name: str) -> Callable[[Gate], Gate]:
    """Register an attention module of your own as `attention=name` of the named classifiers; use it as a decorator.

    The decorated class or function is called with the number of channels, and builds a module that keeps (b, c, h, w).
    Register it in each process that builds or loads such a classifier.

    Args:
        name: Name for the argument `attention`.

    Raises:
        TypeError: If the name is not a string, or the class or function cannot be called with a number of channels.
        ValueError: If the name is empty, or an attention of that name is registered already.

    >>> @register_attention("wide_eca")
    ... def wide_eca(channels):
    ...     return blocks.ECA(channels, kernel_size=7)
    >>> from cifarblocks import create_model
    >>> create_model("resnet_20", attention="wide_eca").stages[0][0].attention2.conv.kernel_size
    (7,)
    """
    if not isinstance(name, str):
        raise TypeError(f'name must be a string, as in @register_attention("mine"), got {name!r}')
    if not name:
        raise ValueError("name must have at least one character, got ''")

    def register(attention: Gate) -> Gate:
        require_part(1, attention=attention)
        if name in _attentions:
            raise ValueError(f"name {name!r} is already registered, for {shown(_attentions[name])}")
        _attentions[name] = attention
        return attention

    return register


def list_attentions(pattern: str = "*") -> list[str]:
    """Return the sorted names of attention modules that match a shell wildcard, also those registered by you.

    Raises:
        TypeError: If the pattern is not a string.

    >>> list_attentions("s*")
    ['se', 'selective_kernel', 'simam']
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a string, got {pattern!r}")
    return sorted(name for name in _attentions if fnmatchcase(name, pattern))


def find_attention(name: str) -> Attention:
    """Return the class or function of that name, which builds an attention module from a number of channels.

    Raises:
        ValueError: If there is none; the message has the names. If it is the class or a module of it, the message
            suggests its name.
    """
    if isinstance(name, str) and name in _attentions:
        return _attentions[name]
    known = [each for each, gate in _attentions.items() if callable(name) and gate in (name, type(name))]
    hint = f"did you mean {known[0]!r}?" if known else "register_attention adds one of your own"
    raise ValueError(f"attention must be one of {list(_attentions)}, got {shown(name)}; {hint}")
