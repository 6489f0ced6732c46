"""Properties that every block must hold, and the cases to try them on."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from cifarblocks import blocks
from cifarblocks.blocks import gnconv


class Case(NamedTuple):
    """A way to build a block, and the inputs that it takes."""

    build: Callable[[], nn.Module]
    in_channels: int
    out_channels: int
    stride: int = 1
    tokens: int | None = None  # for blocks of (b, n, c)
    training_batch: int = 1  # the least that it trains on

    def input(self, batch: int, h: int, w: int, dtype: torch.dtype = torch.float32) -> Tensor:
        shape = (batch, self.in_channels, h, w) if self.tokens is None else (batch, self.tokens, self.in_channels)
        return torch.randn(shape, dtype=dtype)

    def output_shape(self, batch: int, h: int, w: int) -> tuple[int, ...]:
        if self.tokens is not None:
            return batch, self.tokens, self.out_channels
        return batch, self.out_channels, -(-h // self.stride), -(-w // self.stride)


channels = st.integers(1, 9)
strides = st.integers(1, 3)
attentions = st.sampled_from([nn.Identity, blocks.ECA, lambda c: blocks.SqueezeExcite(c, 2)])


def _basic(c, more, stride, attention, position):
    return Case(
        lambda: blocks.BasicBlock(c, c + more, stride, attention=attention, attention_position=position),
        c,
        c + more,
        stride,
    )


def _bottleneck(c, width, groups, stride, attention):
    return Case(
        lambda: blocks.Bottleneck(c, 4 * width, stride, groups, base_width=32, attention=attention),
        c,
        16 * width,
        stride,
    )


def _shortcut(kind):
    return lambda c, more, stride: Case(lambda: kind(c, c + more, stride), c, c + more, stride)


def _same(build, **others):
    """For blocks of (channels, ...) that keep the channels."""
    return lambda c, *arguments: Case(lambda: build(c, *arguments, **others), c, c)


def _ghost(c, out, k, ratio, stride):
    return Case(lambda: blocks.GhostModule(c, out, k, min(ratio, out), stride=stride), c, out, stride)


def _copy(c, out, k, ratio, stride):
    return Case(lambda: blocks.CopyModule(c, out, k, min(ratio, out), stride=stride), c, out, stride)


def _ghost_bottleneck(c, hidden, out, k, stride, se_ratio):
    return Case(lambda: blocks.GhostBottleneck(c, hidden, out, k, stride, se_ratio), c, out, stride)


def _split(c, radix, groups):
    width = 4 * c * radix * groups
    return Case(lambda: blocks.SplitAttention(width, radix, groups), width, width, training_batch=2)


def _cbam(c, hidden, norm):
    return Case(lambda: blocks.CBAM(c, hidden, norm=norm), c, c)


def _selective(c, groups, hidden):
    width = c * groups
    return Case(lambda: blocks.SelectiveKernel(width, groups, hidden), width, width, training_batch=2)


def _resnest(c, width, stride, radix):
    planes = 4 * width * radix
    return Case(
        lambda: blocks.ResNeStBottleneck(c, planes, stride, radix, base_width=32),
        c,
        4 * planes,
        stride,
        training_batch=2,
    )


def _mixer(n, c, token_hidden, channel_hidden):
    return Case(lambda: blocks.MixerLayer(n, c, token_hidden, channel_hidden), c, c, tokens=n)


def _convnext(c, layer_scale, norm):
    return Case(lambda: blocks.ConvNeXtBlock(c, layer_scale=layer_scale, response_norm=norm), c, c)


def _converted(build):
    """For blocks of (in_channels, out_channels, stride, ...)."""
    return lambda c, out, stride, *arguments: Case(lambda: build(c, out, stride, *arguments), c, out, stride)


def _relative(c, heads, size):
    width = 4 * heads
    return Case(lambda: blocks.RelativeAttention(c, size, 4, out_channels=width), c, width)


def _csp(c, half, depth, stride, block):
    build = blocks.CSPBottleneck if block == "ResNet" else blocks.DarknetBlock
    return Case(
        lambda: blocks.CSPStage(c, 3, depth, stride, branch_channels=2 * half, block=build, down_channels=5),
        c,
        3,
        stride,
    )


def _attention(kind):
    return lambda n, heads, width: Case(lambda: kind(heads * width, width), heads * width, heads * width, tokens=n)


def _transformer(c, heads, size, stride):
    width = 4 * heads
    return Case(lambda: blocks.RelativeTransformerBlock(c, width, size, stride, head_channels=4), c, width, stride)


def _gated(kind):
    """Channels that the order divides, and that are even after each halving, as the global filter asks."""
    return lambda c, order, filter: _same(kind, filter=filter)(2 * c * 2 ** (order - 1), order)


odd = st.sampled_from([1, 3, 5])
few = st.integers(1, 4)
from_two = st.integers(2, 9)
# On other maps than 4×3 the spectrum is resized.
filters = st.sampled_from([gnconv.depthwise_7x7, partial(blocks.GlobalLocalFilter, size=(4, 3))])


def _needs_channels_alone(block):
    needed = [name for name, part in inspect.signature(block).parameters.items() if part.default is part.empty]
    return needed == ["channels"]


# Blocks built from their channels alone, as a gate is: they need no entry in the tables below, here and in other files.
OF_CHANNELS = {name: getattr(blocks, name) for name in blocks.__all__ if _needs_channels_alone(getattr(blocks, name))}

CASES = {name: st.builds(_same(block), channels) for name, block in OF_CHANNELS.items()} | {
    "BasicBlock": st.builds(_basic, channels, st.integers(0, 5), strides, attentions, st.integers(1, 3)),
    "Bottleneck": st.builds(_bottleneck, channels, st.integers(1, 3), st.integers(1, 3), strides, attentions),
    "CBAM": st.builds(
        lambda c, r, norm: _same(blocks.CBAM, norm=norm)(c, r),
        channels,
        few,
        st.sampled_from([nn.BatchNorm2d, nn.Identity]),
    ),
    "CSPBottleneck": st.builds(lambda c: _same(blocks.CSPBottleneck)(2 * c), few),
    "CSPStage": st.builds(_csp, channels, few, st.integers(0, 3), strides, st.sampled_from(["ResNet", "Darknet"])),
    "ConvNeXtBlock": st.builds(
        _convnext, channels, st.sampled_from([None, 1e-6, 1.0]), st.sampled_from([nn.Identity, blocks.GRN])
    ),
    "CoordinateAttention": st.builds(_same(blocks.CoordinateAttention), channels, channels),
    "CopyModule": st.builds(_copy, channels, channels, odd, few, strides),
    "DarknetBlock": st.builds(_same(blocks.DarknetBlock), channels, few),
    "DropPath": st.builds(lambda c, rate: Case(lambda: blocks.DropPath(rate), c, c), channels, st.floats(0, 0.9)),
    "ECA": st.builds(_same(blocks.ECA), channels, st.sampled_from([None, 1, 3, 5, 7])),
    "GhostBottleneck": st.builds(
        _ghost_bottleneck, channels, from_two, from_two, odd, st.integers(1, 3), st.sampled_from([0.0, 0.25])
    ),
    "GhostModule": st.builds(_ghost, channels, channels, odd, few, strides),
    "LSKAttention": st.builds(_same(blocks.LSKAttention), from_two),
    "LSKBlock": st.builds(_same(blocks.LSKBlock), from_two, few),
    "GlobalContext": st.builds(_same(blocks.GlobalContext), channels, from_two),
    "GlobalLocalFilter": st.builds(
        lambda c, size: _same(blocks.GlobalLocalFilter)(2 * c, size), few, st.tuples(few, few)
    ),
    "GnConv": st.builds(_gated(blocks.GnConv), few, few, filters),
    "HorNetBlock": st.builds(_gated(blocks.HorNetBlock), few, few, filters),
    "InvertedResidual": st.builds(_converted(blocks.InvertedResidual), channels, channels, strides, few),
    "LSKMBConv": st.builds(_converted(blocks.LSKMBConv), channels, channels, strides),
    "LSKUnit": st.builds(_same(blocks.LSKUnit), from_two),
    "LayerScale": st.builds(_same(blocks.LayerScale), channels, st.floats(0, 1)),
    "MBConv": st.builds(_converted(blocks.MBConv), channels, channels, strides, few),
    "MSCA": st.builds(_same(blocks.MSCA), channels, st.sampled_from([(7, 11, 21), (3, 5), (1,)])),
    "MSCABlock": st.builds(_same(blocks.MSCABlock), channels, few),
    "MixerLayer": st.builds(_mixer, *[channels] * 4),
    "PaddingShortcut": st.builds(_shortcut(blocks.PaddingShortcut), channels, st.integers(0, 5), strides),
    "PostNormBlock": st.builds(_attention(blocks.PostNormBlock), channels, few, few),
    "PreActBlock": st.builds(_converted(blocks.PreActBlock), channels, channels, strides),
    "ProjectionShortcut": st.builds(_shortcut(blocks.ProjectionShortcut), channels, st.integers(0, 5), strides),
    "RelativeAttention": st.builds(_relative, channels, few, st.tuples(few, few)),
    "RelativeTransformerBlock": st.builds(_transformer, channels, few, st.tuples(few, few), strides),
    "ResNeStBottleneck": st.builds(_resnest, channels, st.integers(1, 2), strides, few),
    "SelectiveKernel": st.builds(_selective, few, few, channels),
    "SelfAttention": st.builds(_attention(blocks.SelfAttention), channels, few, few),
    "SimAM": st.builds(_same(blocks.SimAM), channels, st.sampled_from([1e-4, 0.1])),
    "SplitAttention": st.builds(_split, st.integers(1, 2), few, st.sampled_from([1, 2, 4])),
    "SqueezeExcite": st.builds(_same(blocks.SqueezeExcite), channels, channels),
    "TransformerBlock": st.builds(_attention(blocks.TransformerBlock), channels, few, few),
    # In training a pooled map of one channel and one column is a single value, which BatchNorm cannot normalise.
    "TripletAttention": st.builds(_same(blocks.TripletAttention), from_two, odd),
}

# Blocks wide enough that no part of them is dead by chance, and scales that do not hide a branch.
GENERIC = {name: _same(block)(12) for name, block in OF_CHANNELS.items()} | {
    "BasicBlock": Case(lambda: blocks.BasicBlock(12, 16, 2, attention=blocks.ECA), 12, 16, 2),
    "Bottleneck": Case(lambda: blocks.Bottleneck(12, 8, 2, groups=2, base_width=64, attention=blocks.ECA), 12, 32, 2),
    "CBAM": Case(lambda: blocks.CBAM(12, 8), 12, 12),
    "CSPStage": Case(lambda: blocks.CSPStage(6, 10, 2, 2), 6, 10, 2),
    "ConvNeXtBlock": Case(lambda: blocks.ConvNeXtBlock(6, layer_scale=1.0, response_norm=blocks.GRN), 6, 6),
    "CopyModule": Case(lambda: blocks.CopyModule(6, 16, 3, 3, stride=2), 6, 16, 2),
    "DarknetBlock": Case(lambda: blocks.DarknetBlock(8), 8, 8),
    "DropPath": Case(lambda: blocks.DropPath(0.0), 5, 5),
    "ECA": Case(lambda: blocks.ECA(12, 5), 12, 12),
    "GRN": Case(lambda: blocks.GRN(6), 6, 6),
    "GhostBottleneck": Case(lambda: blocks.GhostBottleneck(8, 24, 10, 3, 2, 0.25), 8, 10, 2),
    "GhostModule": Case(lambda: blocks.GhostModule(6, 16, 3, 3, stride=2), 6, 16, 2),
    "LSKAttention": Case(lambda: blocks.LSKAttention(6), 6, 6),
    "LSKBlock": Case(lambda: blocks.LSKBlock(6, 2), 6, 6),
    "GlobalLocalFilter": Case(lambda: blocks.GlobalLocalFilter(6, (8, 10)), 6, 6),
    "GnConv": Case(lambda: blocks.GnConv(8, 3), 8, 8),
    "HorNetBlock": Case(lambda: blocks.HorNetBlock(8, 3, layer_scale=1.0), 8, 8),
    "InvertedResidual": Case(lambda: blocks.InvertedResidual(12, 10, 2), 12, 10, 2),
    "LSKMBConv": Case(lambda: blocks.LSKMBConv(12, 10, 2), 12, 10, 2),
    "LSKUnit": Case(lambda: blocks.LSKUnit(6), 6, 6),
    "LayerNorm2d": Case(lambda: blocks.LayerNorm2d(6), 6, 6),
    "LayerScale": Case(lambda: blocks.LayerScale(6, 0.5), 6, 6),
    "MBConv": Case(lambda: blocks.MBConv(12, 10, 2), 12, 10, 2),
    "MSCA": Case(lambda: blocks.MSCA(6), 6, 6),
    "MSCABlock": Case(lambda: blocks.MSCABlock(6, 2), 6, 6),
    "MSCAUnit": Case(lambda: blocks.MSCAUnit(6), 6, 6),
    "MixerLayer": Case(lambda: blocks.MixerLayer(10, 12, 8, 16), 12, 12, tokens=10),
    "PaddingShortcut": Case(lambda: blocks.PaddingShortcut(5, 9, 2), 5, 9, 2),
    "PostNormBlock": Case(lambda: blocks.PostNormBlock(12, 4), 12, 12, tokens=10),
    "PreActBlock": Case(lambda: blocks.PreActBlock(6, 9, 2), 6, 9, 2),
    "ProjectionShortcut": Case(lambda: blocks.ProjectionShortcut(5, 9, 2), 5, 9, 2),
    "RelativeAttention": Case(lambda: blocks.RelativeAttention(12, (8, 5), 4), 12, 12),
    "RelativeTransformerBlock": Case(
        lambda: blocks.RelativeTransformerBlock(12, 16, (8, 5), 2, head_channels=4), 12, 16, 2
    ),
    "ResNeStBottleneck": Case(lambda: blocks.ResNeStBottleneck(12, 8, 2), 12, 32, 2, training_batch=2),
    "SelectiveKernel": Case(lambda: blocks.SelectiveKernel(12, 2), 12, 12, training_batch=2),
    "SelfAttention": Case(lambda: blocks.SelfAttention(12, 4), 12, 12, tokens=10),
    "SplitAttention": Case(lambda: blocks.SplitAttention(12, 2, 2), 12, 12, training_batch=2),
    "SqueezeExcite": Case(lambda: blocks.SqueezeExcite(12, 8), 12, 12),
    "TransformerBlock": Case(lambda: blocks.TransformerBlock(12, 4), 12, 12, tokens=10),
}

# In training a bias before BatchNorm, a convolution between them or not, has no effect: the mean takes it away again.
WITHOUT_GRADIENT_IN_TRAINING = {
    "CoordinateAttention": frozenset({"reduce.0.bias"}),
    "GhostBottleneck": frozenset({"shortcut.0.1.bias"}),
    "MBConv": frozenset({"norm.bias"}),
    "ResNeStBottleneck": frozenset({"attention.reduce.bias"}),
    "SplitAttention": frozenset({"reduce.bias"}),
}


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients of a random projection of the output, for the input ("x") and each parameter."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    parameters = dict(module.named_parameters())
    loss = (y * torch.randn_like(y)).sum()
    grads = torch.autograd.grad(loss, [x, *parameters.values()], allow_unused=True)
    return dict(zip(["x", *parameters], grads, strict=True))


def dead(module: nn.Module, x: Tensor) -> set[str]:
    """Return the parameters without a gradient on a generic input, or with one below 1e-6 of the largest."""
    sizes = {name: 0.0 if grad is None else grad.abs().max().item() for name, grad in gradients(module, x).items()}
    return {name for name, size in sizes.items() if size <= 1e-6 * max(sizes.values())}


# What a block cannot be built without.
REQUIRED = {
    "in_channels": 8,
    "out_channels": 8,
    "channels": 8,
    "hidden_channels": 8,
    "bottleneck_channels": 8,
    "tokens": 8,
    "token_hidden": 8,
    "channel_hidden": 8,
    "depth": 2,
    "order": 2,
    "mlp_ratio": 4,
    "size": 8,
    "head_channels": 4,
    "kernel_size": 3,
    "initial_value": 1.0,
}


def required(block: type[nn.Module]) -> dict[str, object]:
    parameters = inspect.signature(block).parameters
    return {name: value for name, value in REQUIRED.items() if name in parameters}
