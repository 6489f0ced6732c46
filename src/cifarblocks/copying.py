"""Copies of models as they are in use: after a training step, pruned, hooked, or wrapped for several devices."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=nn.Module)


def unwrapped(model: Model) -> Model:
    """Return the model inside DistributedDataParallel or DataParallel, or the model itself."""
    while isinstance(model, DistributedDataParallel | DataParallel):
        model = model.module
    return model


def copied(model: Model, keep_hooks: bool = True) -> Model:
    """Return a deep copy of what `unwrapped` returns; tensors with a gradient function become detached clones.

    `copy.deepcopy` refuses such tensors (e.g. the weight of a pruned layer) and process groups; the copy shares the
    latter. It copies hooks as `copy.deepcopy` does: functions are shared, objects and bound methods are copied.

    Args:
        model: Any module.
        keep_hooks: If False, no forward hook or pre-hook runs in the copy, except methods of the model's own modules.

    >>> layer = nn.Linear(2, 2)
    >>> layer.output = layer(torch.ones(1, 2))
    >>> copied(layer).output.requires_grad
    False
    """
    model = unwrapped(model)
    modules = list(model.modules())
    groups = [module.process_group for module in modules if isinstance(module, nn.SyncBatchNorm)]
    memo: dict[int, Any] = {id(group): group for group in groups}
    if not keep_hooks:
        memo |= {id(hook): do_nothing for hook in forward_hooks(modules) if not is_method_of(hook, modules)}
    with DetachedCopies():
        return copy.deepcopy(model, memo)


class DetachedCopies(TorchFunctionMode):
    """Let `copy.deepcopy` take tensors with a gradient function, as detached clones."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def forward_hooks(modules: list[nn.Module]) -> Iterator[Callable[..., Any]]:
    """Yield the hooks that run before and after `forward`."""
    for module in modules:
        yield from module._forward_pre_hooks.values()
        yield from module._forward_hooks.values()


def is_method_of(hook: Callable[..., Any], modules: list[nn.Module]) -> bool:
    """Return True if a hook is a bound method of one of the modules, which may need it to compute its output."""
    owner = getattr(hook.func if isinstance(hook, partial) else hook, "__self__", None)
    return any(owner is module for module in modules)


def do_nothing(*_: Any, **__: Any) -> None:
    """Stand in for a hook."""
