"""The reference blocks of the benchmarks compute the same as ours."""

from functools import partial

import arrangements
import pytest
import torch
from references import assert_equal_modules

from cifarblocks import blocks


@pytest.mark.parametrize(
    ("channels", "theirs", "ours"),
    [
        (6, lambda: arrangements.MSCA(6), lambda: blocks.MSCA(6)),
        (6, lambda: arrangements.Unit(6, arrangements.MSCA(6)), lambda: blocks.MSCAUnit(6)),
        (6, lambda: arrangements.UnitBlock(6, arrangements.MSCA(6), 4), lambda: blocks.MSCABlock(6, 4)),
        (6, lambda: arrangements.LSK(6), lambda: blocks.LSKAttention(6)),
        (6, lambda: arrangements.Unit(6, arrangements.LSK(6)), lambda: blocks.LSKUnit(6)),
        (6, lambda: arrangements.UnitBlock(6, arrangements.LSK(6), 4), lambda: blocks.LSKBlock(6, 4)),
        (8, lambda: arrangements.GnConv(8, 3), lambda: blocks.GnConv(8, 3)),
        (
            8,
            lambda: arrangements.GnConv(8, 3, (7, 4)),
            lambda: blocks.GnConv(8, 3, filter=partial(blocks.GlobalLocalFilter, size=(7, 4))),
        ),
        (
            8,
            lambda: arrangements.HorNetBlock(8, 3),
            lambda: blocks.HorNetBlock(8, 3),
        ),
        (6, lambda: arrangements.LSKMBConv(6), lambda: blocks.LSKMBConv(6, 6)),
        (6, lambda: arrangements.PreActBlock(6), lambda: blocks.PreActBlock(6, 6)),
    ],
)
def test_arrangements_equal_our_blocks(channels, theirs, ours):
    theirs = theirs()

    def convert(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(3, 0, 1, 2) if name.endswith("spectrum") else tensor  # real and imaginary part last

    rename = partial(arrangements.our_name, theirs)
    assert_equal_modules(ours(), theirs, torch.randn(2, channels, 7, 4), rename, convert)
