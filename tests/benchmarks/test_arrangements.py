"""What our blocks are timed against computes what they compute."""

from functools import partial

import arrangements
import pytest
import torch
from references import assert_equal_modules

from cifarblocks import blocks

MSCA = {"conv0": "local", "conv3": "mix"}
MSCA |= {f"conv{i}_{j + 1}": f"strips.{i}.{j}" for i in range(3) for j in range(2)}
LSK = {"choose": "select", "mix": "expand"}
LSK |= {name: name for name in ("small", "large", "reduce_small", "reduce_large")}
GATED = {"proj_in": "expand", "filter": "filter", "steps": "steps", "proj_out": "project"}
HORNET = {"norm1": "gnconv_norm", "norm2": "mlp_norm", "expand": "mlp.0", "project": "mlp.2"}
HORNET |= {"gamma1": "gnconv_scale.gamma", "gamma2": "mlp_scale.gamma"}
CHOSEN = {"expand": "expand", "branches": "branches", "project": "project"}
CHOSEN |= {"reduce": "select.0", "choose": "select.2", "gate.1": "gate.reduce", "gate.3": "gate.expand"}
PRE_ACTIVATED = {"bn1": "norm1", "conv1": "conv1", "bn2": "norm2", "conv2": "conv2"}


def unit(attention: dict[str, str]) -> dict[str, str]:
    within = {f"attention.{theirs}": f"branch.2.{ours}" for theirs, ours in attention.items()}
    return {"proj_1": "branch.0", "proj_2": "branch.3"} | within


def block(attention: dict[str, str]) -> dict[str, str]:
    within = {f"unit.{theirs}": f"attention.{ours}" for theirs, ours in unit(attention).items()}
    names = {"norm1": "attention_norm", "norm2": "mlp_norm", "mlp.0": "mlp.0", "mlp.1": "mlp.1", "mlp.3": "mlp.4"}
    return names | {"scale1": "attention_scale.gamma", "scale2": "mlp_scale.gamma"} | within


def prefixed(prefix: str, names: dict[str, str]) -> dict[str, str]:
    return {f"{prefix}.{theirs}": f"{prefix}.{ours}" for theirs, ours in names.items()}


@pytest.mark.parametrize(
    ("channels", "theirs", "ours", "names"),
    [
        (6, lambda: arrangements.MSCA(6), lambda: blocks.MSCA(6), MSCA),
        (6, lambda: arrangements.Unit(6, arrangements.MSCA(6)), lambda: blocks.MSCAUnit(6), unit(MSCA)),
        (6, lambda: arrangements.UnitBlock(6, arrangements.MSCA(6), 4), lambda: blocks.MSCABlock(6, 4), block(MSCA)),
        (6, lambda: arrangements.LSK(6), lambda: blocks.LSKAttention(6), LSK),
        (6, lambda: arrangements.Unit(6, arrangements.LSK(6)), lambda: blocks.LSKUnit(6), unit(LSK)),
        (6, lambda: arrangements.UnitBlock(6, arrangements.LSK(6), 4), lambda: blocks.LSKBlock(6, 4), block(LSK)),
        (8, lambda: arrangements.GnConv(8, 3), lambda: blocks.GnConv(8, 3), GATED),
        (
            8,
            lambda: arrangements.GnConv(8, 3, (7, 4)),
            lambda: blocks.GnConv(8, 3, filter=partial(blocks.GlobalLocalFilter, size=(7, 4))),
            GATED,
        ),
        (
            8,
            lambda: arrangements.HorNetBlock(8, 3),
            lambda: blocks.HorNetBlock(8, 3),
            HORNET | prefixed("gnconv", GATED),
        ),
        (6, lambda: arrangements.LSKMBConv(6), lambda: blocks.LSKMBConv(6, 6), CHOSEN),
        (6, lambda: arrangements.PreActBlock(6), lambda: blocks.PreActBlock(6, 6), PRE_ACTIVATED),
    ],
)
def test_arrangements_equal_our_blocks(channels, theirs, ours, names):
    def rename(name: str) -> str:
        start = max((known for known in names if f"{name}.".startswith(f"{known}.")), key=len)
        return names[start] + name.removeprefix(start)

    def convert(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(3, 0, 1, 2) if name.endswith("spectrum") else tensor  # real and imaginary part last

    assert_equal_modules(ours(), theirs(), torch.randn(2, channels, 7, 4), rename, convert)
