"""Costs are exactly those that the docstrings state as formulas, and the numbers of parameters those of the papers."""

import inspect
import re
from fractions import Fraction
from functools import partial

import pytest
from properties import OF_CHANNELS
from torch import nn

import cifarblocks
from cifarblocks import blocks


def of_channels(block):
    return lambda c: block(c)


# How each block is built from the letters of its formula, and two choices of them.
BUILDS = {name: (of_channels(block), (64,), (128,)) for name, block in OF_CHANNELS.items()} | {
    "BasicBlock": (lambda c: blocks.BasicBlock(c, c), (6,), (9,)),
    "Bottleneck": (lambda p: blocks.Bottleneck(4 * p, p), (6,), (9,)),
    "CBAM": (lambda c, r: blocks.CBAM(c, r), (6, 4), (9, 5)),
    "CSPBottleneck": (lambda c: blocks.CSPBottleneck(c), (6,), (10,)),
    "CSPStage": (lambda c, d, n: blocks.CSPStage(c, d, n), (5, 6, 2), (7, 10, 3)),
    "CoordinateAttention": (lambda c, r: blocks.CoordinateAttention(c, r), (6, 4), (9, 5)),
    "CopyModule": (lambda c, d: blocks.CopyModule(c, d), (6, 16), (9, 8)),
    "DropPath": (lambda c: blocks.DropPath(0.1), (6,), (9,)),
    "ECA": (lambda c, k: blocks.ECA(c, k), (6, 3), (9, 5)),
    "GhostBottleneck": (lambda c, e: blocks.GhostBottleneck(c, e, c), (6, 16), (10, 8)),
    "GhostModule": (lambda c, d: blocks.GhostModule(c, d), (6, 16), (9, 8)),
    "GlobalContext": (lambda c, r: blocks.GlobalContext(c, r), (6, 4), (9, 5)),
    "GlobalLocalFilter": (lambda c, m, n: blocks.GlobalLocalFilter(c, (m, n)), (6, 7, 8), (10, 5, 4)),
    "GnConv": (lambda c, n: blocks.GnConv(c, n), (16, 4), (8, 1)),
    "HorNetBlock": (lambda c, n: blocks.HorNetBlock(c, n), (16, 4), (8, 2)),
    "InvertedResidual": (lambda c: blocks.InvertedResidual(c, c), (8,), (12,)),
    "LSKAttention": (lambda c: blocks.LSKAttention(c), (6,), (10,)),
    "LSKBlock": (lambda c, r: blocks.LSKBlock(c, r), (6, 8), (10, 3)),
    "LSKMBConv": (lambda c: blocks.LSKMBConv(c, c), (6,), (10,)),
    "LSKUnit": (lambda c: blocks.LSKUnit(c), (6,), (10,)),
    "LayerScale": (lambda c: blocks.LayerScale(c, 1.0), (6,), (9,)),
    "MBConv": (lambda c: blocks.MBConv(c, c), (8,), (12,)),
    "MSCABlock": (lambda c, r: blocks.MSCABlock(c, r), (6, 8), (9, 3)),
    "MixerLayer": (lambda n, c, t, e: blocks.MixerLayer(n, c, t, e), (10, 6, 4, 7), (5, 9, 8, 11)),
    "PaddingShortcut": (lambda c: blocks.PaddingShortcut(c, c + 3), (6,), (9,)),
    "PostNormBlock": (lambda c, n: blocks.PostNormBlock(c), (64, 5), (128, 9)),
    "PreActBlock": (lambda c: blocks.PreActBlock(c, c), (6,), (9,)),
    "ProjectionShortcut": (lambda c, d: blocks.ProjectionShortcut(c, d), (6, 9), (9, 4)),
    "RelativeAttention": (lambda c, m, n: blocks.RelativeAttention(c, (m, n)), (32, 7, 8), (64, 2, 3)),
    "RelativeTransformerBlock": (
        lambda c, m, n: blocks.RelativeTransformerBlock(c, c, (m, n)),
        (32, 7, 8),
        (64, 2, 3),
    ),
    "ResNeStBottleneck": (lambda p: blocks.ResNeStBottleneck(4 * p, p), (8,), (80,)),
    "SelectiveKernel": (lambda c: blocks.SelectiveKernel(c), (64,), (1024,)),
    "SelfAttention": (lambda c, n: blocks.SelfAttention(c), (64, 5), (128, 9)),
    "SplitAttention": (lambda c, r: blocks.SplitAttention(c, r), (60, 1), (80, 4)),
    "SqueezeExcite": (lambda c, r: blocks.SqueezeExcite(c, r), (6, 4), (9, 5)),
    "TransformerBlock": (lambda c, n: blocks.TransformerBlock(c), (64, 5), (128, 9)),
    "TripletAttention": (lambda c, k: blocks.TripletAttention(c, k), (6, 7), (9, 3)),
}
TOKENS = frozenset({"MixerLayer", "PostNormBlock", "SelfAttention", "TransformerBlock"})


def evaluate(formula: str, letters: dict[str, object]) -> Fraction:
    """A formula as the docstrings write it: `3·c²/2 + 78·c`."""
    python = formula.replace("·", "*").replace("²", "**2").replace("^", "**")
    return eval(re.sub(r"(\d+)", r"Fraction(\1)", python), {"Fraction": Fraction, "max": max}, letters)


def test_every_block_states_its_cost():
    for name in blocks.__all__:
        assert name in BUILDS, f"{name} has no sizes in BUILDS of tests/blocks/test_costs.py"
        assert re.search(r"Cost: .*?\n\n", getattr(blocks, name).__doc__, re.DOTALL), (
            f"{name} states no cost: Cost: ..."
        )
    assert set(BUILDS) <= set(blocks.__all__)


@pytest.mark.parametrize("choice", [1, 2])
@pytest.mark.parametrize("name", BUILDS)
def test_costs_are_as_stated(name, choice):
    build, values = BUILDS[name][0], BUILDS[name][choice]
    letters = dict(zip(inspect.signature(build).parameters, values, strict=True)) | {"h": 7, "w": 5}
    text = " ".join(re.search(r"Cost: (.*?)\n\n", getattr(blocks, name).__doc__, re.DOTALL)[1].split())
    parameters, multiply_adds, auxiliary = re.match(
        r"(.*?) parameters, (.*?) multiply-adds(?:.*?, with (\w = .*?)[;.])?", text
    ).groups()
    if auxiliary:
        letter, _, formula = auxiliary.partition(" = ")
        letters[letter] = evaluate(formula, letters)
    module = build(*values)
    channels = letters["c"] if "c" in letters else 4 * letters["p"]
    shape = (1, letters["n"], channels) if name in TOKENS else (1, channels, 7, 5)
    count, macs = sum(p.numel() for p in module.parameters()), cifarblocks.count_macs(module, shape)
    assert count == evaluate(parameters, letters), f"{name} has {count} parameters for {letters}, not {parameters}"
    assert macs == evaluate(multiply_adds, letters), (
        f"{name} has {macs} multiply-adds for {letters}, not {multiply_adds}"
    )


# By hand from the papers; the parity with another library holds those of the others.
PAPERS = [
    (lambda: blocks.BasicBlock(16, 32, 2, shortcut=blocks.PaddingShortcut), 13_952),
    (lambda: blocks.CBAM(64, norm=nn.Identity), 2 * 64 * 4 + 2 * 7 * 7),
    (lambda: blocks.CoordinateAttention(64), (64 + 1 + 2) * 8 + 2 * (8 + 1) * 64),
    (lambda: blocks.GlobalContext(256), 256 + (256 + 1 + 2) * 16 + (16 + 1) * 256),
    (lambda: blocks.GnConv(64, 2), 19_392),
    (lambda: blocks.GnConv(64, 5), 21_520),
    (lambda: blocks.GnConv(64, 4, filter=partial(blocks.GlobalLocalFilter, size=8)), 21_100),
    (lambda: blocks.HorNetBlock(64, 3), 54_208),
    (lambda: blocks.LSKAttention(64), 11_334),
    (lambda: blocks.LSKBlock(64, 8), 91_270),
    (lambda: blocks.LSKMBConv(64, 64), 122_048),
    (lambda: blocks.LSKMBConv(64, 96, 2), 130_304),
    (lambda: blocks.LSKUnit(64), 19_654),
    (lambda: blocks.MSCA(64), 11_200),
    (lambda: blocks.MSCABlock(64, 4), 55_552),
    (lambda: blocks.MSCAUnit(64), 19_520),
    (lambda: blocks.SelectiveKernel(128, 32), 2 * (128 * 4 * 9 + 2 * 128) + (128 + 2) * 32 + 32 * 2 * 128),
    (lambda: blocks.SimAM(64), 0),
    (lambda: blocks.TripletAttention(64), 3 * (2 * 7 * 7 + 2)),
    (lambda: blocks.PreActBlock(16, 160), 16 * 160 * 9 + 160 * 160 * 9 + 16 * 160 + 2 * (16 + 160)),
]


@pytest.mark.parametrize(("build", "count"), PAPERS)
def test_has_the_papers_number_of_parameters(build, count):
    assert sum(p.numel() for p in build().parameters()) == count
