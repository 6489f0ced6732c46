"""Faster layers for training and inference on CPUs, which replace torch's own and keep their parameters."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.module import _has_any_global_hook

from cifarblocks.blocks.basic import DropPath, LayerNorm2d, LayerScale
from cifarblocks.blocks.residual import BasicBlock, Bottleneck, PreActBlock
from cifarblocks.blocks.split_attention import ResNeStBottleneck
from cifarblocks.native.batch_norm import NativeBatchNorm2d
from cifarblocks.native.depthwise import NativeDepthwiseConv2d
from cifarblocks.native.layer_norm import NativeLayerNorm
from cifarblocks.native.narrow import NarrowConv2d
from cifarblocks.native.scale import ChannelScale, gains

Model = TypeVar("Model", bound=nn.Module)
Path = tuple[nn.Module, ...]  # a norm, the parts that its output passes, the ReLU that alone reads it


class NativeLayerNorm2d(LayerNorm2d, NativeLayerNorm):
    """LayerNorm2d by our kernels where they are faster."""


class NativeLayerScale(LayerScale):
    """LayerScale with its gradients in one pass over memory."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy) or type(self) is not NativeLayerScale or not gains(x, self.gamma):
            return super().forward(x)
        return ChannelScale.apply(x, self.gamma)

    @staticmethod
    def fits(scale: nn.Module) -> bool:
        """Return True for a scale whose factors are a parameter of its own."""
        return "gamma" in scale._parameters


class Deferring(nn.Module):
    """Block that computes a norm and the ReLU after it in the same passes over memory, if nothing else reads it."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(x)
        norms = [vars(path[0]) for path in self.paths() if is_clear(path)]
        try:
            for norm in norms:
                norm["deferring"] = True
            return super().forward(x)
        finally:
            for norm in norms:
                norm.pop("deferring", None)  # another thread may have been faster

    def paths(self) -> Iterable[Path]:
        """Return the path of each norm with a ReLU after it; additions on it are not named."""
        raise NotImplementedError

    @classmethod
    def fits(cls, block: Any) -> bool:
        """Return True if a path of this block has a faster norm and a ReLU at its ends."""
        return any(type(path[0]) is NativeBatchNorm2d and type(path[-1]) is nn.ReLU for path in cls.paths(block))


class NativeSequential(Deferring, nn.Sequential):
    """Sequential in which ReLUs stand right after norms."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)

    def paths(self) -> Iterable[Path]:
        return pairwise(self)


class NativeBasicBlock(Deferring, BasicBlock):
    """BasicBlock with each norm, the addition and the ReLU after it in the same passes."""

    def paths(self) -> Iterable[Path]:
        yield self.norm1, self.attention1, self.activation1
        yield self.norm2, self.attention2, self.drop_path, self.attention3, self.activation2


class NativeBottleneck(Deferring, Bottleneck):
    """Bottleneck with each norm, the addition and the ReLU after it in the same passes."""

    def paths(self) -> Iterable[Path]:
        yield self.norm1, self.activation1
        yield self.norm2, self.activation2
        yield self.norm3, self.attention, self.drop_path, self.activation3


class NativePreActBlock(Deferring, PreActBlock):
    """PreActBlock with each norm and the ReLU after it in the same passes."""

    def paths(self) -> Iterable[Path]:
        yield self.norm1, self.activation1
        yield self.norm2, self.activation2


class NativeResNeStBottleneck(Deferring, ResNeStBottleneck):
    """ResNeStBottleneck with its last norm, addition and ReLU in the same passes."""

    def paths(self) -> Iterable[Path]:
        if type(self.expand) is nn.Sequential and len(self.expand) > 1 and not is_watched(self.expand):
            _, norm, *after = self.expand
            yield norm, *after, self.drop_path, self.activation


FASTER: tuple[tuple[type[nn.Module], Any], ...] = (
    (nn.BatchNorm2d, NativeBatchNorm2d),
    (nn.Conv2d, NativeDepthwiseConv2d),
    (nn.Conv2d, NarrowConv2d),
    (nn.LayerNorm, NativeLayerNorm),
    (LayerNorm2d, NativeLayerNorm2d),
    (LayerScale, NativeLayerScale),
    (nn.Sequential, NativeSequential),
    (BasicBlock, NativeBasicBlock),
    (Bottleneck, NativeBottleneck),
    (PreActBlock, NativePreActBlock),
    (ResNeStBottleneck, NativeResNeStBottleneck),
)
PLAIN: dict[type[nn.Module], type[nn.Module]] = {faster: plain for plain, faster in FASTER}


def accelerate(model: Model) -> Model:
    """Make norms, their ReLUs, LayerScale and some convolutions faster on a CPU, in place, and return the model.

    Only the classes of layers change (e.g. to `NativeBatchNorm2d`), and of blocks in which a ReLU follows a BatchNorm.
    Parameters, buffers and hooks stay the same objects. So an existing optimizer or DistributedDataParallel wrapper
    stays valid. Outputs are equal up to rounding. A layer that is shared, parametrised or pruned does not change. If a
    norm, its ReLU or a module between them has a hook, they are computed one after the other.

    The first step compiles the C++ kernels, once for this processor. Torch's own operations compute everything else:
    on a GPU, in other dtypes, without a compiler, and under torch.compile, export, fx, jit and torch.func.

    >>> from cifarblocks.blocks import BasicBlock
    >>> type(accelerate(BasicBlock(16, 16)).norm1).__name__
    'NativeBatchNorm2d'
    """
    places = Counter(id(part) for module in model.modules() for part in module._modules.values())
    for module in reversed(list(model.modules())):  # layers before the blocks that hold them
        if places[id(module)] < 2 and "forward" not in vars(module):
            fitting = (faster for plain, faster in FASTER if type(module) is plain and faster.fits(module))
            module.__class__ = next(fitting, type(module))
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`: give every layer its own class again, in place, and return the model.

    A layer that was parametrised after `accelerate` keeps its class and computes by torch's operations. To restore it,
    first remove its parametrizations.

    >>> from cifarblocks.blocks import BasicBlock
    >>> type(restore(accelerate(BasicBlock(16, 16))).norm1)
    <class 'torch.nn.modules.batchnorm.BatchNorm2d'>
    """
    for module in model.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return model


def is_clear(path: Path) -> bool:
    """Return True if the output of a norm reaches the ReLU unchanged and no hook sees it."""
    norm, *between, relu = path
    return (
        type(norm) is NativeBatchNorm2d
        and type(relu) is nn.ReLU
        and all(map(is_passed, between))
        and not any(map(is_watched, path))
        and not _has_any_global_hook()
    )


def is_passed(part: nn.Module) -> bool:
    """Return True if a part returns its input."""
    return type(part) is nn.Identity or (type(part) is DropPath and not (part.training and part.rate))


def is_watched(part: nn.Module) -> bool:
    """Return True if a hook sees the input, output or gradients of a part, or it has a `forward` of its own."""
    hooks = (part._forward_pre_hooks, part._forward_hooks, part._backward_pre_hooks, part._backward_hooks)
    return any(hooks) or "forward" in vars(part)
