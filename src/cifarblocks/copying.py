"""Copies of models in use: after a training step, pruned, hooked, or wrapped for several devices."""

import copy
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
    latter. Without `keep_hooks` the copy runs no forward hooks or pre-hooks except methods of the model's own modules.

    >>> layer = nn.Linear(2, 2)
    >>> layer.output = layer(torch.ones(1, 2))
    >>> copied(layer).output.requires_grad
    False
    """
    model = unwrapped(model)
    memo: dict[int, Any] = {}
    modules = list(model.modules())
    for module in modules:
        if isinstance(module, nn.SyncBatchNorm):
            memo[id(module.process_group)] = module.process_group
        if not keep_hooks:
            for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
                method = getattr(hook, "func", hook)  # inside functools.partial
                if not any(getattr(method, "__self__", None) is own for own in modules):
                    memo[id(hook)] = do_nothing
    with DetachedCopies():
        return copy.deepcopy(model, memo)


class DetachedCopies(TorchFunctionMode):
    """Let `copy.deepcopy` take tensors with a gradient function, as detached clones."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def do_nothing(*_: Any, **__: Any) -> None:
    """Stand in for a hook."""
