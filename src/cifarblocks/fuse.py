"""Fold norms and scales into the layers beside them, for inference: the same function in fewer steps."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeGuard, TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cifarblocks.blocks.basic import LayerScale
from cifarblocks.blocks.convnext import ConvNeXtBlock
from cifarblocks.blocks.gnconv import HorNetBlock
from cifarblocks.blocks.lsk import LSKBlock
from cifarblocks.blocks.mbconv import MBConv
from cifarblocks.blocks.msca import MSCABlock
from cifarblocks.blocks.residual import BasicBlock, Bottleneck, PreActBlock
from cifarblocks.blocks.split_attention import SplitAttention

Model = TypeVar("Model", bound=nn.Module)
Layer = nn.Conv2d | nn.Linear
Fold = Callable[[nn.Module, str, str], None]  # the parent, and its two parts by name

# What stands beside what in each block: (a convolution, the BatchNorm after it), ...
NORM_AFTER: dict[type[nn.Module], list[tuple[str, str]]] = {
    BasicBlock: [("conv1", "norm1"), ("conv2", "norm2")],
    Bottleneck: [("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3")],
    PreActBlock: [("conv1", "norm2")],
    SplitAttention: [("reduce", "norm")],
}
# ... (a BatchNorm, the 1×1 convolution that alone reads it), ...
NORM_BEFORE: dict[type[nn.Module], list[tuple[str, str]]] = {
    LSKBlock: [("mlp_norm", "mlp.0")],
    MBConv: [("norm", "expand.0")],
    MSCABlock: [("mlp_norm", "mlp.0")],
}
# ... (the last layer of a branch, its scale).
SCALE_AFTER: dict[type[nn.Module], list[tuple[str, str]]] = {
    ConvNeXtBlock: [("project", "scale")],
    HorNetBlock: [("gnconv.project", "gnconv_scale"), ("mlp.2", "mlp_scale")],
    LSKBlock: [("mlp.4", "mlp_scale")],
    MSCABlock: [("mlp.4", "mlp_scale")],
}


def fuse(model: Model) -> Model:
    """A copy for inference, in eval mode, of a classifier, a block, or a model made of blocks.

    Folded are the BatchNorm after a convolution, in every block and every Sequential; the BatchNorm before the 1×1
    convolution that alone reads it; and the scale of a branch. What was folded is an Identity in the copy, whose
    state dict is therefore another. A layer that stands in two places, that has a hook, or whose weight is computed
    from others, stays as it is. The output is the same but for rounding.

    >>> from cifarblocks.blocks import GhostModule
    >>> fuse(GhostModule(16, 32)).primary
    Sequential(
      (0): Conv2d(16, 16, kernel_size=(1, 1), stride=(1, 1))
      (1): Identity()
      (2): ReLU(inplace=True)
    )
    """
    fused = copy.deepcopy(model)
    modules = list(fused.modules())
    places = Counter(id(part) for module in modules for part in module._modules.values())
    for module in modules:
        for fold, first, second in folds(module):
            pair = [module.get_submodule(name) for name in (first, second)]
            if all(places[id(part)] == 1 and is_plain(part) for part in pair):
                fold(module, first, second)
    return fused.eval()


def folds(module: nn.Module) -> Iterator[tuple[Fold, str, str]]:
    """What may be folded in a module, in order, and the names of what takes part."""
    if computes_as(module, nn.Sequential):
        for first, second in pairwise(module._modules):
            yield fold_norm_after, first, second
    for pairs, fold in (
        (NORM_BEFORE, fold_norm_before),
        (NORM_AFTER, fold_norm_after),
        (SCALE_AFTER, fold_scale_after),
    ):
        for first, second in pairs.get(type(module), []) if computes_as(module, type(module)) else []:
            yield fold, first, second


def is_plain(module: nn.Module) -> bool:
    """Whether its parameters are its own, not computed from others as by weight_norm, and nothing hooks into it."""
    return not (is_parametrized(module) or module._forward_pre_hooks or module._forward_hooks)


def computes_as(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return True if its `forward` is that of one of these classes, and not a subclass's or its own."""
    return "forward" not in vars(module) and type(module).forward in [kind.forward for kind in kinds]


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return True if it computes what torch's Linear does from its weight and bias."""
    return isinstance(module, nn.Linear) and computes_as(module, nn.Linear)


def is_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return True if it computes what torch's Conv2d does from its weight and bias."""
    return (
        isinstance(module, nn.Conv2d)
        and computes_as(module, nn.Conv2d)
        and type(module)._conv_forward is nn.Conv2d._conv_forward
    )


def is_fixed_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Return True if it is a factor and a shift in eval mode, as torch's BatchNorm2d with running statistics is."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and computes_as(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and module.running_var is not None
    )


def fold_norm_after(parent: nn.Module, layer_name: str, norm_name: str) -> None:
    """A convolution, then BatchNorm."""
    layer, norm = parent.get_submodule(layer_name), parent.get_submodule(norm_name)
    if is_convolution(layer) and is_fixed_norm(norm):
        factor, shift = affine(norm)
        scale_output(layer, factor)
        add_bias(layer, shift)
        parent.set_submodule(norm_name, nn.Identity())


def fold_norm_before(parent: nn.Module, norm_name: str, layer_name: str) -> None:
    """BatchNorm, then a 1×1 convolution without padding."""
    layer, norm = parent.get_submodule(layer_name), parent.get_submodule(norm_name)
    if is_convolution(layer) and is_fixed_norm(norm):
        factor, shift = affine(norm)
        weight = layer.weight.detach().double()
        add_bias(layer, weight.sum((2, 3)) @ shift)
        set_parameter(layer, "weight", weight * factor.view(-1, 1, 1))
        parent.set_submodule(norm_name, nn.Identity())


def fold_scale_after(parent: nn.Module, layer_name: str, scale_name: str) -> None:
    """A convolution or a linear layer, then a factor for each channel."""
    layer, scale = parent.get_submodule(layer_name), parent.get_submodule(scale_name)
    if not (isinstance(scale, LayerScale) and computes_as(scale, LayerScale)):
        return
    if is_convolution(layer) or is_linear(layer):
        scale_output(layer, scale.gamma.detach().double())
        parent.set_submodule(scale_name, nn.Identity())


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The factor and the shift that BatchNorm is in eval mode, in float64.

    Raises:
        ValueError: if it has no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(f"norm must have running statistics to be folded, got {norm}")
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.double() * factor
    return factor, shift + norm.bias.detach().double() if norm.affine else shift


def scale_output(layer: Layer, factor: Tensor) -> None:
    """Multiply each output channel, bias included."""
    weight = layer.weight.detach().double()
    set_parameter(layer, "weight", weight * factor.view(-1, *[1] * (weight.ndim - 1)))
    if layer.bias is not None:
        set_parameter(layer, "bias", layer.bias.detach().double() * factor)


def add_bias(layer: Layer, shift: Tensor) -> None:
    """Add to the bias, which is made if there is none."""
    set_parameter(layer, "bias", shift if layer.bias is None else layer.bias.detach().double() + shift)


def set_parameter(layer: Layer, name: str, value: Tensor) -> None:
    """Replace a parameter, in the dtype of the layer; what lay channels last does so still."""
    setattr(layer, name, nn.Parameter(value.to(layer.weight.dtype), layer.weight.requires_grad))
