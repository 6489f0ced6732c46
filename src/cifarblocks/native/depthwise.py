"""Depthwise convolutions on CPUs: dilated ones on smaller maps, and gradients by our kernels."""

from ctypes import c_int64
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.fx import Proxy

from cifarblocks.native import amx, call_kernel, call_module, computed_dtype, layout_of, may_serve
from cifarblocks.native.compiling import library

Pair = tuple[int, int]
DTYPES = (torch.bfloat16, torch.float32, torch.float64)


class NativeDepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution with gradients by our kernels, and dilated kernels on smaller maps, on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return call_module(self, x)
        if not self.gains(x) or not may_serve(x, self.weight):
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
            dtype = torch.get_autocast_dtype("cpu")
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        if self.is_spread:
            return dilated(x, weight, bias, self.dilation)  # type: ignore[arg-type]
        return convolved(x, weight, bias, self.stride, self.padding, self.dilation)  # type: ignore[arg-type]

    def gains(self, x: Tensor) -> bool:
        """Return True if anything here is faster than torch's."""
        if torch.compiler.is_compiling() or x.ndim != 4 or type(self) is not NativeDepthwiseConv2d:
            return False
        if self.weight.shape != (x.shape[1], 1, *self.kernel_size) or not self.fits(self):  # changed since
            return False
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        return self.is_spread or (trained and are_faster(computed_dtype(x), self.weight, x.shape[2], self.stride))

    @property
    def is_spread(self) -> bool:
        """True for a dilated kernel at stride 1, which can be computed on smaller maps."""
        return self.stride == (1, 1) and self.dilation != (1, 1)

    @staticmethod
    def fits(conv: Any) -> bool:
        """Return True for a convolution with one filter a channel, odd and padded with zeros by half its kernel."""
        half = tuple(d * (k // 2) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        return (
            "weight" in conv._parameters  # and not computed from others, as by pruning
            and conv.groups == conv.in_channels == conv.out_channels
            and conv.padding_mode == "zeros"
            and conv.padding == half
            and all(k % 2 for k in conv.kernel_size)
        )


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Convolve by torch, with our gradients if they are faster and the kernels are available."""
    trained = torch.is_grad_enabled() and weight.requires_grad and x.dtype == weight.dtype and x.dtype in DTYPES
    if trained and are_faster(x.dtype, weight, x.shape[2], stride) and library():
        return DepthwiseConvolution.apply(x, weight, bias, stride, padding, dilation)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups=len(weight))


def are_faster(dtype: torch.dtype, weight: Tensor, height: int, stride: tuple[int, ...]) -> bool:
    """Return True if our gradients take less time than torch's, as measured on maps from 4×4 to 32×32.

    With AVX-512 torch is fast for narrow kernels that are not higher than the map, and for strides in float32.
    With AMX ours are faster for narrow kernels too, in bfloat16, but for a few channels.
    """
    if stride != (1, 1):
        return dtype == torch.bfloat16
    return weight.shape[3] > 3 or weight.shape[2] > height or (dtype == torch.bfloat16 and len(weight) >= 32 and amx())


def dilated(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: Pair) -> Tensor:
    """Convolve the smaller maps of every `dilation`-th pixel at stride 1, for which torch has fast code."""
    (h, w), (rows, columns) = x.shape[2:], dilation
    layout = layout_of(x)
    x = F.pad(x, (0, -w % columns, 0, -h % rows))
    maps = rearrange(x, "b c (h i) (w j) -> (i j b) h w c", i=rows, j=columns).permute(0, 3, 1, 2)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    maps = convolved(maps, weight, bias, (1, 1), padding, (1, 1))
    y = rearrange(maps, "(i j b) c h w -> b (h i) (w j) c", i=rows, j=columns).permute(0, 3, 1, 2)[:, :, :h, :w]
    return y.contiguous(memory_format=layout)


class DepthwiseConvolution(torch.autograd.Function):
    """Torch's convolution, and gradients of our own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.places = (stride, padding, dilation)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors  # once: under gradient checkpointing there is no second time
        arguments = (x, weight, gradient, *ctx.places)
        for_x, for_weight, for_bias = needed = ctx.needs_input_grad[:3]
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled() or not can_read(*arguments):
                # Torch's own can be differentiated, batched and recorded.
                groups, places = len(weight), (*ctx.places, False, (0, 0))
                gradients = torch.ops.aten.convolution_backward(gradient, x, weight, [groups], *places, groups, needed)
                return *gradients, None, None, None
            of_x = input_gradient(*arguments) if for_x else None
            of_weight, of_bias = parameter_gradients(*arguments) if for_weight or for_bias else (None, None)
            return of_x, of_weight, of_bias if for_bias else None, None, None, None


def can_read(x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Return True if our kernels can read the inputs of backward; hooks may have changed the saved tensors."""
    places = zip(x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True)
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in places]
    return (
        may_serve(x, weight, gradient)
        and x.dtype == gradient.dtype
        and x.dtype in DTYPES
        and gradient.shape == (*x.shape[:2], *sizes)
        and weight.shape[:2] == (x.shape[1], 1)
    )


def input_gradient(x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Return the gradient for the input, (b, c, h, w): that of the output convolved with the kernel turned around.

    A strided convolution takes every `stride`-th place of one without stride. The places between have gradient 0.
    """
    # Torch's convolution is fast only in this layout.
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    if stride != (1, 1):
        sizes = [
            n + 2 * p - d * (k - 1) for n, p, d, k in zip(x.shape[2:], padding, dilation, weight.shape[2:], strict=True)
        ]
        spread = gradient.new_zeros(*x.shape[:2], *sizes).contiguous(memory_format=torch.channels_last)
        spread[:, :, :: stride[0], :: stride[1]] = gradient
        gradient = spread
    rest = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
    result = F.conv2d(gradient, weight.flip(2, 3), None, 1, rest, dilation, groups=len(weight))
    return result.contiguous(memory_format=layout_of(x))


def parameter_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Tensor]:
    """Return the gradients for the weight, (c, 1, k, k), and the bias, (c,), by our kernels."""
    x, gradient = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, gradient))
    batch, channels, *size = x.shape
    sizes = (batch, channels, *size, *gradient.shape[2:], *weight.shape[2:], *stride, *padding, *dilation)
    of_weight = torch.empty(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))
    of_bias = of_weight.new_empty(channels)
    tensors = (x, gradient, of_weight, of_bias)
    call_kernel("depthwise_gradients", x.dtype, tensors, (c_int64 * len(sizes))(*sizes))
    return of_weight.to(weight.dtype), of_bias.to(weight.dtype)
