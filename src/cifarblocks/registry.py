"""Names of classifiers → the functions that build them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import nn

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

# timm's words for arguments → ours
OURS = {"in_chans": "in_channels", "img_size": "image_size", "drop_path_rate": "drop_path", "drop_rate": "dropout"}

_factories: dict[str, Callable[..., nn.Module]] = {}


def register_model(factory: Factory) -> Factory:
    """Make a function known to `create_model` and `list_models` under its own name; use it as a decorator.

    Raises:
        TypeError: If it is not a function with a name.
        ValueError: If a model of that name is registered already.
    """
    name = getattr(factory, "__name__", None)
    if not callable(factory) or not isinstance(name, str):
        raise TypeError(f"factory must be a function with a name, got {factory!r}")
    if name in _factories:
        raise ValueError(f"name {name!r} is already registered, by {_factories[name].__module__}")
    _factories[name] = factory
    return factory


def find_model(name: str) -> Callable[..., nn.Module]:
    """The function that builds the classifier of that name.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If the name is unknown; the message suggests near ones.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if name not in _factories:
        near = get_close_matches(name, _factories, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "list_models() has the names"
        raise ValueError(f"unknown model name {name!r}; {hint}")
    return _factories[name]


def check_arguments(factory: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the signature of a model's function does not have.

    Raises:
        TypeError: if there is one; the message suggests the nearest that the function has.
    """
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name, value in arguments.items():
        if name not in parameters:
            near = [OURS[name]] if OURS.get(name) in parameters else get_close_matches(name, parameters, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(parameters)}"
            raise TypeError(f"{factory.__name__} has no argument {name!r}, got {value!r}; {hint}")


def create_model(
    name: str,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build the classifier of that name, or its backbone.

    Args:
        name: one of `list_models()`.
        features_only: return the backbone, which gives a list of maps and has no head.
        out_indices: stages whose maps the backbone gives, negative ones counted from the end; by default all.
        device: where it is built, "meta" included; by default torch's default device.
        dtype: floating-point type of its parameters and buffers; by default torch's default type.
        arguments: `num_classes=100, in_channels=3, image_size=32, drop_path=0.0, dropout=0.0` and the model's own.

    Raises:
        ValueError: if the name is unknown; the message suggests near ones. If `out_indices` does not name stages, or
            is given without `features_only`; if `features_only` is asked of a network that has no maps.
        TypeError: if the model has no such argument; the message suggests the nearest.

    >>> create_model("eca_resnet_20", num_classes=10)(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> backbone = create_model("resnet_18", features_only=True, out_indices=(1, 3))
    >>> [tuple(x.shape) for x in backbone(torch.randn(2, 3, 32, 32))]
    [(2, 128, 16, 16), (2, 512, 4, 4)]
    """
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices needs features_only=True, got out_indices={out_indices!r} without it")
    factory = find_model(name)
    check_arguments(factory, arguments)
    with nullcontext() if device is None else torch.device(device):
        model: Any = factory(**arguments)
    return (model.backbone(out_indices) if features_only else model).to(dtype=dtype)


def list_models(pattern: str = "*") -> list[str]:
    """The sorted names that match a shell wildcard.

    >>> list_models("eca_resnet_*")
    ['eca_resnet_20', 'eca_resnet_32', 'eca_resnet_56']
    """
    return sorted(name for name in _factories if fnmatchcase(name, pattern))
