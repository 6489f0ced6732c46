"""What every block must do, whatever it computes: the cases to try, and the properties to hold."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from cifarblocks import blocks


class Case(NamedTuple):
    """A way to build a block, and the channels that it takes and gives."""

    build: Callable[[], nn.Module]
    in_channels: int
    out_channels: int
    stride: int = 1


channels = st.integers(1, 9)
strides = st.integers(1, 3)
attentions = st.sampled_from([nn.Identity, blocks.ECA, lambda c: blocks.SqueezeExcite(c, 2)])


def _eca(c, k):
    return Case(lambda: blocks.ECA(c, k), c, c)


def _se(c, hidden):
    return Case(lambda: blocks.SqueezeExcite(c, hidden), c, c)


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


CASES = {
    "BasicBlock": st.builds(_basic, channels, st.integers(0, 5), strides, attentions, st.integers(1, 3)),
    "Bottleneck": st.builds(_bottleneck, channels, st.integers(1, 3), st.integers(1, 3), strides, attentions),
    "DropPath": st.builds(lambda c, rate: Case(lambda: blocks.DropPath(rate), c, c), channels, st.floats(0, 0.9)),
    "ECA": st.builds(_eca, channels, st.sampled_from([None, 1, 3, 5, 7])),
    "PaddingShortcut": st.builds(_shortcut(blocks.PaddingShortcut), channels, st.integers(0, 5), strides),
    "ProjectionShortcut": st.builds(_shortcut(blocks.ProjectionShortcut), channels, st.integers(0, 5), strides),
    "SqueezeExcite": st.builds(_se, channels, st.integers(1, 9)),
}

# Blocks wide enough that no part of them is dead by chance.
GENERIC = {
    "BasicBlock": Case(lambda: blocks.BasicBlock(12, 16, 2, attention=blocks.ECA), 12, 16, 2),
    "Bottleneck": Case(lambda: blocks.Bottleneck(12, 8, 2, groups=2, base_width=64, attention=blocks.ECA), 12, 32, 2),
    "DropPath": Case(lambda: blocks.DropPath(0.0), 5, 5),
    "ECA": Case(lambda: blocks.ECA(12, 5), 12, 12),
    "PaddingShortcut": Case(lambda: blocks.PaddingShortcut(5, 9, 2), 5, 9, 2),
    "ProjectionShortcut": Case(lambda: blocks.ProjectionShortcut(5, 9, 2), 5, 9, 2),
    "SqueezeExcite": Case(lambda: blocks.SqueezeExcite(12, 8), 12, 12),
}


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients of a random projection of the output, for the input ("x") and each parameter."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    parameters = dict(module.named_parameters())
    loss = (y * torch.randn_like(y)).sum()
    grads = torch.autograd.grad(loss, [x, *parameters.values()], allow_unused=True)
    return dict(zip(["x", *parameters], grads, strict=True))


def assert_every_parameter_learns(module: nn.Module, x: Tensor, exceptions: frozenset[str] = frozenset()) -> None:
    """On a generic input the gradient of each parameter exceeds 1e-6 of the largest one."""
    grads = gradients(module, x)
    missing = [name for name, grad in grads.items() if grad is None]
    assert not missing, f"no gradient: {missing}"
    sizes = {name: grad.abs().max().item() for name, grad in grads.items()}
    dead = {name: size for name, size in sizes.items() if size <= 1e-6 * max(sizes.values()) and name not in exceptions}
    assert not dead, f"these parameters do not learn: {dead}"
