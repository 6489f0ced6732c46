"""Fold norms and scales into the layers beside them, and pack weights, for inference: the same function, faster."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate, chain, pairwise
from typing import TypeGuard, TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cifarblocks.accelerating import restore
from cifarblocks.blocks.basic import DropPath, LayerScale
from cifarblocks.blocks.convnext import ConvNeXtBlock
from cifarblocks.blocks.gnconv import GnConv, HorNetBlock
from cifarblocks.blocks.lsk import LSKBlock
from cifarblocks.blocks.mbconv import MBConv
from cifarblocks.blocks.msca import MSCABlock
from cifarblocks.blocks.residual import BasicBlock, Bottleneck, PreActBlock
from cifarblocks.blocks.split_attention import SplitAttention
from cifarblocks.copying import copied
from cifarblocks.fused_blocks import FUSED, TAKING
from cifarblocks.native.packed import PackedConv2d, PackedLinear

Model = TypeVar("Model", bound=nn.Module)
Layer = nn.Conv2d | nn.Linear
Fold = Callable[[nn.Module, str, str], None]  # the parent, and the paths of two layers in it
Table = dict[type[nn.Module], list[tuple[str, str]]]

# Parts that stand side by side in the `forward` of each block: (a convolution, the norm after it), ...
NORM_AFTER: Table = {
    BasicBlock: [("conv1", "norm1"), ("conv2", "norm2")],
    Bottleneck: [("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3")],
    PreActBlock: [("conv1", "norm2")],
    SplitAttention: [("reduce", "norm")],
}
# ... (a norm, the part that alone reads it and begins with a convolution), ...
NORM_BEFORE: Table = {LSKBlock: [("mlp_norm", "mlp")], MBConv: [("norm", "expand")], MSCABlock: [("mlp_norm", "mlp")]}
# ... (a part that ends with a layer, its scale).
SCALE_AFTER: Table = {
    ConvNeXtBlock: [("project", "scale")],
    HorNetBlock: [("gnconv", "gnconv_scale"), ("mlp", "mlp_scale")],
    LSKBlock: [("mlp", "mlp_scale")],
    MSCABlock: [("mlp", "mlp_scale")],
}


def fuse(model: Model) -> Model:
    """Return a copy for inference, in eval mode: norms and scales folded, weights packed. It is equal up to rounding.

    Three parts are folded: a norm after a convolution, in every block and every Sequential; a norm that only the next
    convolution reads; and the scale of a branch. Norms are BatchNorm2d, SyncBatchNorm and torchvision's
    FrozenBatchNorm2d. A folded part becomes an Identity, so the copy has another state dict.

    On a CPU, without gradients, in channels_last, weights of Conv2d and Linear are packed on first use. Additions and
    activations join the call of the layer before them. Torch's own layers compute everything else. Weights that change
    are packed again, unless they change in place through `.data`.

    A layer does not change if it appears twice in the model, has hooks or a `forward` of its own, or if its weight is
    computed (e.g. pruned or weight-normed). The copy of an accelerated model is not accelerated: use
    `accelerate(fuse(model))`.

    Args:
        model: Any module. For DistributedDataParallel and DataParallel, the model inside is copied.

    >>> from cifarblocks.blocks import GhostModule
    >>> fuse(GhostModule(16, 32)).primary[1]
    Identity()
    """
    fused = restore(copied(model))
    modules = list(fused.modules())
    places = Counter(id(part) for module in modules for part in module._modules.values())
    for module in modules:
        for fold, first, second in folds(module):
            parts = chain(parts_along(module, first), parts_along(module, second))
            if all(places[id(part)] == 1 and is_plain(part) for part in parts):
                fold(module, first, second)
    return packed(fused.eval())


def packed(model: Model) -> Model:
    """Change classes: layers then pack their weights, and blocks pass them the addition and activation that follow."""
    modules = list(model.modules())
    for module in modules:
        plain = computes_as(module, type(module)) and is_plain(module)
        if plain and type(module) is nn.Conv2d and PackedConv2d.fits(module):
            module.__class__ = PackedConv2d
        elif plain and type(module) is nn.Linear:
            module.__class__ = PackedLinear
    for module in reversed(modules):  # parts before what they are in
        fused = FUSED.get(type(module))
        if fused is None or not computes_as(module, type(module)):
            continue
        identities, taking = (map(module.get_submodule, names) for names in (fused.identities, fused.taking))
        if all(map(is_identity, identities)) and all(isinstance(part, TAKING) and is_plain(part) for part in taking):
            module.__class__ = fused.block
    return model


def folds(module: nn.Module) -> Iterator[tuple[Fold, str, str]]:
    """Yield, in order, each fold that may apply inside a module, and the paths of its two layers."""
    if computes_as(module, nn.Sequential):
        for first, second in pairwise(module._modules):
            yield fold_norm_after, first, second
    for first, second in pairs_of(module, NORM_BEFORE):
        yield fold_norm_before, first, path_of_end(module, second, 0)
    for first, second in pairs_of(module, NORM_AFTER):
        yield fold_norm_after, first, second
    for first, second in pairs_of(module, SCALE_AFTER):
        yield fold_scale_after, path_of_end(module, first, -1), second


def pairs_of(module: nn.Module, table: Table) -> list[tuple[str, str]]:
    """Return the entry of a table for the block class whose `forward` the module has."""
    return next((pairs for kind, pairs in table.items() if computes_as(module, kind)), [])


def path_of_end(module: nn.Module, path: str, end: int) -> str:
    """Return the path of the first (0) or last (-1) layer that a part applies in eval mode."""
    part = module.get_submodule(path)
    if computes_as(part, GnConv):
        names = ["expand", "project"]
    elif computes_as(part, nn.Sequential):
        names = [name for name, layer in part._modules.items() if layer is not None and not is_identity(layer)]
    else:
        names = []
    return path_of_end(module, f"{path}.{names[end]}", end) if names else path


def parts_along(module: nn.Module, path: str) -> Iterator[nn.Module]:
    """Yield the submodule at a path and those that contain it: `mlp` and `mlp[0]` for "mlp.0"."""
    for prefix in accumulate(path.split("."), "{}.{}".format):
        yield module.get_submodule(prefix)


def is_plain(module: nn.Module) -> bool:
    """Return True if no hook reads or changes its input, output or gradients, and its parameters are plain ones."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
    return not any(hooks) and not is_parametrized(module) and all(type(p) is nn.Parameter for p in parameters)


def computes_as(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return True if its `forward` is that of one of these classes, and not a subclass's or its own."""
    return "forward" not in vars(module) and type(module).forward in [kind.forward for kind in kinds]


def is_identity(module: nn.Module) -> bool:
    """Return True if it returns its input in eval mode."""
    return computes_as(module, nn.Identity, nn.Dropout, DropPath) and is_plain(module)


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return True if it computes what torch's Linear does from its weight and bias."""
    return computes_as(module, nn.Linear) and "weight" in module._parameters


def is_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return True if it computes what torch's Conv2d does from its weight and bias."""
    return (
        computes_as(module, nn.Conv2d)
        and type(module)._conv_forward is nn.Conv2d._conv_forward  # type: ignore[attr-defined]
        and "weight" in module._parameters
    )


def is_fixed_norm(module: nn.Module) -> bool:
    """Return True if in eval mode it is a factor and a shift for each channel, from running statistics."""
    known = computes_as(module, nn.BatchNorm2d, nn.SyncBatchNorm) or is_frozen_norm(module)
    return known and module.running_mean is not None and module.running_var is not None


def is_frozen_norm(module: nn.Module) -> bool:
    """Return True if it is a FrozenBatchNorm2d as torchvision has it, by its name, buffers and eps: no import."""
    frozen = [kind for kind in type(module).__mro__ if kind.__name__ == "FrozenBatchNorm2d"]
    return (
        computes_as(module, *frozen)
        and set(module._buffers) == {"weight", "bias", "running_mean", "running_var"}
        and not (module._parameters or module._modules)
        and hasattr(module, "eps")
    )


def fold_norm_after(parent: nn.Module, layer_path: str, norm_path: str) -> None:
    """Fold a norm into the convolution before it."""
    layer, norm = parent.get_submodule(layer_path), parent.get_submodule(norm_path)
    if is_convolution(layer) and is_fixed_norm(norm):
        factor, shift = factor_and_shift(norm)
        scale_output(layer, factor)
        add_bias(layer, shift)
        take_out(parent, norm_path)


def fold_norm_before(parent: nn.Module, norm_path: str, layer_path: str) -> None:
    """Fold a norm into the convolution after it, if that has no padding and one group."""
    layer, norm = parent.get_submodule(layer_path), parent.get_submodule(norm_path)
    if is_convolution(layer) and is_fixed_norm(norm) and layer.padding == (0, 0) and layer.groups == 1:
        factor, shift = factor_and_shift(norm)
        weight = layer.weight.detach().double()
        add_bias(layer, weight.sum((2, 3)) @ shift)
        set_parameter(layer, "weight", weight * factor.view(-1, 1, 1))
        take_out(parent, norm_path)


def fold_scale_after(parent: nn.Module, layer_path: str, scale_path: str) -> None:
    """Fold a factor for each channel into the convolution or linear layer before it."""
    layer, scale = parent.get_submodule(layer_path), parent.get_submodule(scale_path)
    if (is_convolution(layer) or is_linear(layer)) and computes_as(scale, LayerScale):
        scale_output(layer, scale.gamma.detach().double())  # type: ignore[operator]
        take_out(parent, scale_path)


def take_out(parent: nn.Module, path: str) -> None:
    """Put an Identity in the place of a submodule; torch 2.4 has no `set_submodule`."""
    owner, _, name = path.rpartition(".")
    setattr(parent.get_submodule(owner), name, nn.Identity())


def factor_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the factor and the shift that a norm is in eval mode, in float64."""
    names = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (getattr(norm, name) for name in names)
    factor = (variance.double() + norm.eps).rsqrt()
    if weight is not None:
        factor = factor * weight.detach().double()
    shift = -mean.double() * factor
    return factor, shift if bias is None else shift + bias.detach().double()


def scale_output(layer: Layer, factor: Tensor) -> None:
    """Multiply each output channel, bias included."""
    weight = layer.weight.detach().double()
    set_parameter(layer, "weight", weight * factor.view(-1, *[1] * (weight.ndim - 1)))
    if layer.bias is not None:
        set_parameter(layer, "bias", layer.bias.detach().double() * factor)


def add_bias(layer: Layer, shift: Tensor) -> None:
    """Add to the bias; without one, make it."""
    set_parameter(layer, "bias", shift if layer.bias is None else layer.bias.detach().double() + shift)


def set_parameter(layer: Layer, name: str, value: Tensor) -> None:
    """Replace a parameter, in the dtype and memory format of the layer."""
    setattr(layer, name, nn.Parameter(value.to(layer.weight.dtype), layer.weight.requires_grad))
