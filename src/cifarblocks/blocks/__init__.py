"""The blocks' door: every public block."""

from cifarblocks.blocks.basic import DropPath
from cifarblocks.blocks.eca import ECA
from cifarblocks.blocks.residual import BasicBlock, Bottleneck, PaddingShortcut, ProjectionShortcut
from cifarblocks.blocks.se import SqueezeExcite

__all__ = [
    "ECA",
    "BasicBlock",
    "Bottleneck",
    "DropPath",
    "PaddingShortcut",
    "ProjectionShortcut",
    "SqueezeExcite",
]
