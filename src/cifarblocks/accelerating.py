"""Faster layers for training and inference on CPUs, in the place of torch's own and with their parameters."""

from collections import Counter
from typing import TypeVar

from torch import nn

from cifarblocks.native.batch_norm import NativeBatchNorm2d
from cifarblocks.native.depthwise import NativeDepthwiseConv2d

Model = TypeVar("Model", bound=nn.Module)

FASTER: dict[type[nn.Module], type[NativeBatchNorm2d | NativeDepthwiseConv2d]] = {
    nn.BatchNorm2d: NativeBatchNorm2d,
    nn.Conv2d: NativeDepthwiseConv2d,
}
PLAIN: dict[type[nn.Module], type[nn.Module]] = {faster: plain for plain, faster in FASTER.items()}


def accelerate(model: Model) -> Model:
    """Make BatchNorm and depthwise convolutions faster on a CPU: the same model, changed in place and returned.

    Only the classes of layers change, to `NativeBatchNorm2d` and `NativeDepthwiseConv2d`. Parameters, buffers and hooks
    stay the same objects, so an optimizer or DistributedDataParallel made before goes on. Outputs are equal but for
    rounding. A layer that is shared, parametrised or pruned stays as it is.

    The first step compiles the C++ kernels, once for this processor. Torch's own operations compute everything else:
    on a GPU, in other dtypes, without a compiler, and under torch.compile, export, fx, jit and torch.func.

    >>> from cifarblocks.blocks import BasicBlock
    >>> type(accelerate(BasicBlock(16, 16)).norm1).__name__
    'NativeBatchNorm2d'
    """
    places = Counter(id(part) for module in model.modules() for part in module._modules.values())
    for module in model.modules():
        faster = FASTER.get(type(module))
        if faster is not None and places[id(module)] < 2 and "forward" not in vars(module) and faster.fits(module):
            module.__class__ = faster
    return model


def restore(model: Model) -> Model:
    """Undo `accelerate`: give every layer its own class again, in place, and return the model.

    A layer that was parametrised since is computed by torch; remove its parametrizations first to restore it.

    >>> from cifarblocks.blocks import BasicBlock
    >>> type(restore(accelerate(BasicBlock(16, 16))).norm1)
    <class 'torch.nn.modules.batchnorm.BatchNorm2d'>
    """
    for module in model.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return model
