"""Names of classifiers → the functions that build them."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import nn

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

# Names of arguments in timm and torchvision → ours
OURS = {
    "in_chans": "in_channels",
    "img_size": "image_size",
    "drop_path_rate": "drop_path",
    "stochastic_depth_prob": "drop_path",
    "drop_rate": "dropout",
    "num_class": "num_classes",
    "attn_layer": "attention",
}
# Arguments of timm without a counterpart → what to use instead
ELSEWHERE = {
    "checkpoint_path": "weights= takes a file of cifarblocks train, and load_published a file of others",
    "exportable": "every model can be exported unchanged",
    "global_pool": "each head pools as its paper does",
    "patch_size": "each model has its own patch size",
    "pretrained_cfg": "cifarblocks.load(weights).card says what weights are for",
    "scriptable": "every model can be traced and exported unchanged",
}
NEAR = 0.7  # least share of common letters of a misspelt name

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
    """Return the function that builds the classifier of that name.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If the name is unknown; the message suggests near ones.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if name not in _factories:
        near = get_close_matches(name.lower(), _factories, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "list_models() has the names"
        model, dot, weights = name.partition(".")  # a name of list_weights(), or one of timm's
        if dot and model in _factories:
            hint = f"did you mean {model!r} with weights={weights!r}?"
        raise ValueError(f"unknown model name {name!r}; {hint}")
    return _factories[name]


def check_arguments(factory: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the signature of a model's function does not have.

    Raises:
        TypeError: If there is one; the message suggests the nearest argument, with its meaning.
    """
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name, value in arguments.items():
        if name not in parameters:
            near = [OURS[name]] if OURS.get(name) in parameters else get_close_matches(name, parameters, 1, NEAR)
            hint = f"did you mean {described(factory, near[0])}?" if near else f"it has {', '.join(parameters)}"
            hint = ELSEWHERE.get(name, hint)
            raise TypeError(f"{factory.__name__} has no argument {name!r}, got {value!r}; {hint}")


def meaning_of(factory: Callable[..., nn.Module], name: str) -> str:
    """Return the meaning of an argument of a model's function, from `Annotated[type, meaning]`; "" without one."""
    return getattr(factory.__annotations__.get(name), "__metadata__", ("",))[0]


def described(factory: Callable[..., nn.Module], name: str) -> str:
    """Return an argument of a model's function, with its meaning in parentheses."""
    meaning = meaning_of(factory, name).partition(";")[0].rstrip(".")
    return f"{name!r} ({meaning})" if meaning else repr(name)


def instantiate(
    name: str,
    *,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build the classifier of that name with random weights, as `create_model` does.

    Raises:
        ValueError: If the name is unknown; the message suggests near ones.
        TypeError: If the model has no such argument; the message suggests the nearest.
    """
    factory = find_model(name)
    check_arguments(factory, arguments)
    with nullcontext() if device is None else torch.device(device):
        model = factory(**arguments)
    return model.to(dtype=dtype)


def list_models(pattern: str = "*") -> list[str]:
    """Return the sorted names that match a shell wildcard; warn if only `"*pattern*"` matches any.

    Raises:
        TypeError: If the pattern is not a string.

    >>> list_models("eca_resnet_*")
    ['eca_resnet_20', 'eca_resnet_32', 'eca_resnet_56']
    """
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a string, got {pattern!r}")
    names = matching_models(pattern)
    if not names and pattern and (wider := matching_models(f"*{pattern}*")):
        warnings.warn(f'no model is called {pattern!r}; "*{pattern}*" matches {len(wider)}', stacklevel=2)
    return names


def matching_models(pattern: str) -> list[str]:
    """Return the sorted names of models that match a shell wildcard."""
    return sorted(name for name in _factories if fnmatchcase(name, pattern))


def is_model(name: str) -> bool:
    """Return True for the name of a classifier.

    >>> is_model("resnet_18"), is_model("resnet18")
    (True, False)
    """
    return name in _factories
