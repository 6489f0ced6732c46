"""Drop path acts only on the residual branch: a dropped image keeps its shortcut, unchanged and unscaled."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cifarblocks import blocks
from cifarblocks.blocks import DropPath

IDENTITY = {
    "ConvNeXtBlock": lambda: blocks.ConvNeXtBlock(8, layer_scale=1.0),
    "DarknetBlock": lambda: blocks.DarknetBlock(8),
    "GhostBottleneck": lambda: blocks.GhostBottleneck(8, 16, 8),
    "HorNetBlock": lambda: blocks.HorNetBlock(8, 2, layer_scale=1.0),
    "InvertedResidual": lambda: blocks.InvertedResidual(8, 8),
    "LSKBlock": lambda: blocks.LSKBlock(8, 2),
    "LSKMBConv": lambda: blocks.LSKMBConv(8, 8),
    "MBConv": lambda: blocks.MBConv(8, 8),
    "MSCABlock": lambda: blocks.MSCABlock(8, 2),
    "MixerLayer": lambda: blocks.MixerLayer(6, 8, 4, 16),
    "PreActBlock": lambda: blocks.PreActBlock(8, 8),
    "RelativeTransformerBlock": lambda: blocks.RelativeTransformerBlock(8, 8, (5, 6), head_channels=4),
    "TransformerBlock": lambda: blocks.TransformerBlock(8, 4),
}
RECTIFIED = {
    "BasicBlock": lambda: blocks.BasicBlock(8, 8, attention=blocks.ECA),
    "Bottleneck": lambda: blocks.Bottleneck(8, 2, base_width=256),
    "ResNeStBottleneck": lambda: blocks.ResNeStBottleneck(8, 2, base_width=256),
}


class Drop(nn.Module):
    """Drop path that drops every image."""

    def forward(self, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize("name", sorted(IDENTITY | RECTIFIED))
def test_only_the_shortcut_is_left(name):
    block = (IDENTITY | RECTIFIED)[name]().train()
    places = [path for path, module in block.named_modules() if isinstance(module, DropPath)]
    assert places == ["drop_path"]
    block.drop_path = Drop()
    x = torch.randn((4, 6, 8) if name in ("MixerLayer", "TransformerBlock") else (4, 8, 5, 6))
    assert torch.equal(block(x), F.relu(x) if name in RECTIFIED else x)
