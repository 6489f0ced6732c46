"""Convolutions and linear layers with weights packed for oneDNN; an addition and an activation join the same call.

The operations are private ones of torch, made for torch.compile. They serve inference on channels_last maps of a CPU.
Torch's own layers compute all else: with gradients, on a GPU, in other layouts and dtypes, under autocast,
torch.compile, export, fx, jit and torch.func, and if torch lacks the operations.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from cifarblocks.native import call_module, is_plain, may_serve
from cifarblocks.native.narrow import NarrowConv2d, apart, images_in_a_row, side_by_side

SHAPES = 8  # of inputs, for which a layer keeps its packed weight
# For more values torch's own GELU and SiLU are faster.
FEW_VALUES = 2**16
SMALL_MAP = 20480  # values of one float32 map up to which torch calls MKL, in half the time that oneDNN takes


class Packed(NamedTuple):
    """The packed weight for one shape of the input, the shape of the output, and how many images lie side by side."""

    weight: Tensor
    shape: torch.Size
    few: bool
    images: int = 1


class Packing(NamedTuple):
    """Packed weights of a layer, by the shape of its input, and the weight that they were made from."""

    address: int
    version: int
    weight: Tensor  # held, so that no other tensor gets its address
    channels_last: bool
    by_shape: dict[torch.Size, Packed | None]


class PackedLayer(nn.Module):
    """Base of layers that pack their weight on first use, and again after each change that is not through `.data`."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute as torch's layer does."""
        packed = self.packed(x)
        if packed is not None:
            return self.computed(x, packed, None, None)
        return call_module(self, x) if isinstance(x, Proxy) else super().forward(x)

    def followed_by(self, x: Tensor, plus: Tensor | None = None, activation: nn.Module | None = None) -> Tensor:
        """Return activation(self(x) + plus), in one call where that is possible."""
        packed = None if has_hooks(self) else self.packed(x)
        if packed is None:
            return finished(self(x), plus, activation)
        return self.computed(x, packed, plus, activation)

    def computed(self, x: Tensor, packed: Packed, plus: Tensor | None, activation: nn.Module | None) -> Tensor:
        """Return activation(self(x) + plus), by the packed weight."""
        raise NotImplementedError

    def packed(self, x: Tensor) -> Packed | None:
        """Return the packed weight for an input, or None if torch's own layer serves."""
        raise NotImplementedError

    def packing(self) -> Packing | None:
        """Return the packings of the current weight, or None if it must not be packed."""
        weight = self._parameters["weight"]
        if weight is None:
            return None
        known: Packing | None = vars(self).get("_packing")
        if known is not None and known.address == weight.data_ptr() and known.version == weight._version:
            return known
        # Tensors made in inference mode have no version. torch.func.functional_call puts plain tensors in place.
        if type(weight) is not nn.Parameter or weight.is_inference() or not is_plain(weight):
            return None
        if not has_operations(weight.dtype):
            return None
        channels_last = not weight.is_contiguous()
        self._packing = Packing(weight.data_ptr(), weight._version, weight.detach(), channels_last, {})
        return self._packing

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and files, without packed weights."""
        return {name: value for name, value in vars(self).items() if name != "_packing"}


class PackedConv2d(PackedLayer, nn.Conv2d):
    """Convolution whose weight is packed, and which adds and activates in the same call."""

    def computed(self, x: Tensor, packed: Packed, plus: Tensor | None, activation: nn.Module | None) -> Tensor:
        """Return activation(conv(x) + plus), by the packed weight."""
        x = x.contiguous(memory_format=torch.channels_last)
        places = (packed.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)
        operation, numbers, algorithm = operation_of(activation, packed.few)
        if packed.images > 1:
            row = side_by_side(x, packed.images, self.stride[0])
            y = torch.ops.mkldnn._convolution_pointwise.default(row, *places, "none", [], "")
            return finished(apart(y, packed.images, packed.shape[3]), plus, activation, inplace=True)
        if plus is None:
            y = torch.ops.mkldnn._convolution_pointwise.default(x, *places, operation, numbers, algorithm)
        elif self.groups == 1 and operation in ("none", "relu") and can_be_added(plus, x, packed):
            relu = "relu" if operation == "relu" else None
            y = torch.ops.mkldnn._convolution_pointwise.binary(x, plus, *places, "add", None, relu, [], None)
        else:
            y = torch.ops.mkldnn._convolution_pointwise.default(x, *places, "none", [], "")
            return finished(y, plus, activation, inplace=True)
        return finished(y, None, activation if operation == "none" else None, inplace=True)

    def packed(self, x: Tensor) -> Packed | None:
        """Return the packed weight for an input, or None if torch's own convolution serves."""
        if not in_inference(x) or (self.groups == 1 and is_small(x)) or not may_serve(x):
            return None
        if (packing := self.packing()) is None or x.dtype != packing.weight.dtype:
            return None
        if x.ndim != 4 or not (packing.channels_last or x.stride(1) == 1):
            return None
        if x.shape not in packing.by_shape:
            keep(packing.by_shape, x.shape, self.pack(x))
        return packing.by_shape[x.shape]

    def pack(self, x: Tensor) -> Packed | None:
        """Pack the weight for an input; None if the input is wrong, so that torch's convolution refuses it."""
        places: Any = (self.padding, self.stride, self.dilation)
        sizes = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, s, d, k in zip(x.shape[2:], *places, self.kernel_size, strict=True)
        ]
        shape = torch.Size((len(x), self.out_channels, *sizes))
        if x.shape[1] != self.in_channels or min(*shape, *x.shape) < 1:
            return None
        images = images_in_a_row(self, x) if NarrowConv2d.fits(self) else 1
        size = x.shape if images == 1 else side_by_side(x, images, self.stride[0]).shape
        weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *places, self.groups, size)
        return Packed(weight, shape, shape.numel() <= FEW_VALUES, images)

    @staticmethod
    def fits(conv: Any) -> bool:
        """Return True for zero padding in numbers, except for dilated depthwise convolutions: `accelerate` has them."""
        depthwise = conv.groups == conv.in_channels == conv.out_channels
        spread = depthwise and conv.stride == (1, 1) and conv.dilation != (1, 1)
        return conv.padding_mode == "zeros" and isinstance(conv.padding, tuple) and not spread


class PackedLinear(PackedLayer, nn.Linear):
    """Linear layer whose weight is packed in bfloat16, and which adds and activates in the same call."""

    def computed(self, x: Tensor, packed: Packed, plus: Tensor | None, activation: nn.Module | None) -> Tensor:
        """Return activation(linear(x) + plus), by the packed weight."""
        operation, numbers, algorithm = operation_of(activation, packed.few)
        if plus is None:
            y = torch.ops.mkldnn._linear_pointwise.default(x, packed.weight, self.bias, operation, numbers, algorithm)
            return finished(y, None, activation if operation == "none" else None, inplace=True)
        if not can_be_added(plus, x, packed):
            return finished(self.computed(x, packed, None, None), plus, activation)
        y = torch.ops.mkldnn._linear_pointwise.binary(x, plus, packed.weight, self.bias, "add")
        return finished(y, None, activation, inplace=True)

    def packed(self, x: Tensor) -> Packed | None:
        """Return the packed weight for an input, or None if torch's own layer serves."""
        # MKL is as fast in float32.
        if not in_inference(x) or x.dtype != torch.bfloat16 or not may_serve(x):
            return None
        if (packing := self.packing()) is None or x.dtype != packing.weight.dtype:
            return None
        if x.shape not in packing.by_shape:
            keep(packing.by_shape, x.shape, self.pack(x))
        return packing.by_shape[x.shape]

    def pack(self, x: Tensor) -> Packed | None:
        """Pack the weight for an input; None if the input is wrong, so that torch's layer refuses it."""
        if x.ndim < 2 or x.shape[-1] != self.in_features or not x.numel() * self.out_features:
            return None
        weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), x.shape[:-1].numel())
        shape = torch.Size((*x.shape[:-1], self.out_features))
        return Packed(weight, shape, shape.numel() <= FEW_VALUES)


def keep(by_shape: dict[torch.Size, Packed | None], shape: torch.Size, packed: Packed | None) -> None:
    """Keep the packed weight of a shape; remove all others first if there are many."""
    if len(by_shape) >= SHAPES:
        by_shape.clear()
    by_shape[shape] = packed


def finished(y: Tensor, plus: Tensor | None, activation: nn.Module | None, inplace: bool = False) -> Tensor:
    """Return activation(y + plus), each only if given; GELU may overwrite y, to save the memory of a copy."""
    y = y if plus is None else y + plus
    if activation is None:
        return y
    if inplace and type(activation) is nn.GELU and not has_hooks(activation):
        return torch.ops.aten.gelu_(y, approximate=activation.approximate)
    return activation(y)


def in_inference(x: Tensor) -> bool:
    """Return True if torch computes without gradients, autocast and tracing, and may use oneDNN."""
    return not (
        isinstance(x, Proxy)
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch.is_autocast_enabled("cpu")
        or not torch._C._get_mkldnn_enabled()
    )


def is_small(x: Tensor) -> bool:
    """Return True for one float32 map of few values."""
    return x.dtype == torch.float32 and x.ndim == 4 and x.shape[0] == 1 and x.numel() <= SMALL_MAP


@cache
def has_operations(dtype: torch.dtype) -> bool:
    """Return True if torch has the private operations, for this dtype on this processor."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    operations, places = torch.ops.mkldnn, ((0, 0), (1, 1), (1, 1), 1)
    try:
        with torch.inference_mode():
            x = torch.ones(1, 1, 1, 1, dtype=dtype)
            weight = operations._reorder_convolution_weight(x, *places, x.shape)
            operations._convolution_pointwise.default(x, weight, None, *places, "swish", [], "")
            operations._convolution_pointwise.default(x, weight, None, *places, "hardtanh", [0.0, 6.0], "")
            operations._convolution_pointwise.binary(x, x, weight, None, *places, "add", None, "relu", [], None)
            x = x[0, 0]
            weight = operations._reorder_linear_weight(x, 1)
            operations._linear_pointwise.default(x, weight, None, "gelu", [], "none")
            operations._linear_pointwise.binary(x, x, weight, None, "add")
    except (AttributeError, RuntimeError):
        return False
    return True


def can_be_added(plus: Tensor, x: Tensor, packed: Packed) -> bool:
    """Return True if the addend has the shape and dtype of the output, so that nothing is broadcast."""
    return plus.shape == packed.shape and plus.dtype == x.dtype and is_plain(plus)


def has_hooks(module: nn.Module) -> bool:
    """Return True if hooks read or change its input or output."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def operation_of(activation: nn.Module | None, few: bool) -> tuple[str, list[float], str]:
    """Return oneDNN's operation for an activation, its numbers and algorithm; "none" if it is a separate call."""
    kind = type(activation)
    if activation is None or has_hooks(activation):
        return "none", [], ""
    if kind is nn.ReLU:
        return "relu", [], ""
    if kind is nn.ReLU6:
        return "hardtanh", [0.0, 6.0], ""
    if few and kind is nn.GELU:
        return "gelu", [], activation.approximate  # type: ignore[return-value]
    if few and kind is nn.SiLU:
        return "swish", [], ""
    return "none", [], ""
