"""Names of classifiers → the functions that build them."""

from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

_factories: dict[str, Callable[..., nn.Module]] = {}


def register_model(factory: Factory) -> Factory:
    """Make a function known to `create_model` and `list_models` under its own name; use it as a decorator.

    Raises:
        ValueError: if a model of that name is registered already.
    """
    name = factory.__name__
    if name in _factories:
        raise ValueError(f"name {name!r} is already registered, by {_factories[name].__module__}")
    _factories[name] = factory
    return factory


def find_model(name: str) -> Callable[..., nn.Module]:
    """The function that builds the classifier of that name.

    Raises:
        ValueError: if the name is unknown; the message suggests near ones.
    """
    if name not in _factories:
        near = get_close_matches(name, _factories, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "list_models() has the names"
        raise ValueError(f"unknown model name {name!r}; {hint}")
    return _factories[name]


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Build the classifier of that name.

    Args:
        name: one of `list_models()`.
        arguments: `num_classes=100, in_channels=3, image_size=32, drop_path=0.0, dropout=0.0` and the model's own.

    Raises:
        ValueError: if the name is unknown; the message suggests near ones.
        TypeError: if the model has no such argument.

    >>> import torch
    >>> create_model("eca_resnet_20", num_classes=10)(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return find_model(name)(**arguments)


def list_models(pattern: str = "*") -> list[str]:
    """The sorted names that match a shell wildcard.

    >>> list_models("eca_resnet_*")
    ['eca_resnet_20', 'eca_resnet_32', 'eca_resnet_56']
    """
    return sorted(name for name in _factories if fnmatchcase(name, pattern))
